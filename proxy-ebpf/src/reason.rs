//! What the programs say of a frame: one [`Reason`], which is also the index of its counter.

/// What a frame was taken for. Every frame passes up, whatever the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Reason {
    /// A whole UDP datagram over IPv4 or IPv6.
    Udp,
    /// Neither IPv4 nor IPv6, or under more VLAN tags than are read.
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
}

impl Reason {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 7] = [
        Self::Udp,
        Self::NotIp,
        Self::NotUdp,
        Self::Fragment,
        Self::Options,
        Self::Truncated,
        Self::Malformed,
    ];

    /// The word used in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::NotIp => "not_ip",
            Self::NotUdp => "not_udp",
            Self::Fragment => "fragment",
            Self::Options => "options",
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
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
