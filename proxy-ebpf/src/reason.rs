//! What the programs say of a frame: one [`Reason`], which is also the index of its counter.

/// What became of a frame, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Reason {
    /// It went on to its origin or client. Every other one passed up, unchanged.
    Forwarded,
    /// Neither IPv4 nor IPv6, or in other tags than one of IEEE 802.1Q.
    NotIp,
    /// IP, with another protocol than UDP.
    NotUdp,
    /// A fragment: of UDP over IPv4, of anything over IPv6.
    Fragment,
    /// UDP behind IPv4 options, or anything behind an IPv6 extension header.
    Options,
    /// The frame ends within one of its headers.
    Truncated,
    /// Its headers contradict each other or themselves.
    Malformed,
    /// UDP for a port on which there is no flow.
    OtherPort,
    /// UDP for a port with flows, and of none of them.
    UnknownFlow,
    /// STUN of a flow of WebRTC (RFC 7983).
    Stun,
    /// DTLS of a flow of WebRTC.
    Dtls,
    /// A handshake of a flow of SRT.
    Handshake,
    /// A shutdown of a flow of SRT.
    Shutdown,
    /// Something else of a flow than media and what media needs.
    NotMedia,
    /// Of a flow that is held for the time being.
    Held,
    /// From another interface or VLAN than where its sender is.
    OtherInterface,
    /// Its time to live ends here (RFC 1812 5.3.1, RFC 8200 3).
    LastHop,
    /// Larger than what can leave where its flow goes.
    TooLarge,
    /// XDP: its checksum was left to a network card, which a redirected frame never meets.
    PartialChecksum,
    /// TC: merged from datagrams of which not all are media, or from too many.
    Merged,
    /// The interface where its flow goes is none of the devices that take frames.
    NoDevice,
    /// The kernel has no memory to change it.
    NoRoom,
}

impl Reason {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 22] = [
        Self::Forwarded,
        Self::NotIp,
        Self::NotUdp,
        Self::Fragment,
        Self::Options,
        Self::Truncated,
        Self::Malformed,
        Self::OtherPort,
        Self::UnknownFlow,
        Self::Stun,
        Self::Dtls,
        Self::Handshake,
        Self::Shutdown,
        Self::NotMedia,
        Self::Held,
        Self::OtherInterface,
        Self::LastHop,
        Self::TooLarge,
        Self::PartialChecksum,
        Self::Merged,
        Self::NoDevice,
        Self::NoRoom,
    ];

    /// The word used in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::NotIp => "not_ip",
            Self::NotUdp => "not_udp",
            Self::Fragment => "fragment",
            Self::Options => "options",
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::OtherPort => "other_port",
            Self::UnknownFlow => "unknown_flow",
            Self::Stun => "stun",
            Self::Dtls => "dtls",
            Self::Handshake => "handshake",
            Self::Shutdown => "shutdown",
            Self::NotMedia => "not_media",
            Self::Held => "held",
            Self::OtherInterface => "other_interface",
            Self::LastHop => "last_hop",
            Self::TooLarge => "too_large",
            Self::PartialChecksum => "partial_checksum",
            Self::Merged => "merged",
            Self::NoDevice => "no_device",
            Self::NoRoom => "no_room",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn every_reason_is_counted_under_its_own_word() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index, "{} stands out of order", reason.as_str());
            let same = Reason::ALL.iter().filter(|other| other.as_str() == reason.as_str());
            assert_eq!(same.count(), 1, "{} is said twice", reason.as_str());
        }
    }
}
