//! Which protocol a datagram of a WebRTC session speaks, by its first byte (RFC 7983 7).

/// What a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 0 to 3: connectivity and consent.
    Stun,
    /// 16 to 19: another key agreement.
    Zrtp,
    /// 20 to 63: the key agreement, data channels, and the end.
    Dtls,
    /// 64 to 79: media inside TURN.
    TurnChannel,
    /// 128 to 191: RTP and RTCP, encrypted or not.
    Media,
    /// Nothing at all, or a byte that nobody begins with.
    Other,
}

impl Kind {
    /// The kind of a datagram.
    pub const fn of(datagram: &[u8]) -> Self {
        match datagram.first() {
            Some(0..=3) => Self::Stun,
            Some(16..=19) => Self::Zrtp,
            Some(20..=63) => Self::Dtls,
            Some(64..=79) => Self::TurnChannel,
            Some(128..=191) => Self::Media,
            _ => Self::Other,
        }
    }
}

/// Whether one of a datagram's DTLS records is an alert (RFC 6347 4.1).
///
/// Behind the handshake alerts are encrypted, so that a close notification cannot be told from a
/// warning; what follows no whole record is not read. Anybody can send one: it says that a session
/// may have ended. DTLS 1.3 hides what its records are.
pub fn is_dtls_alert(datagram: &[u8]) -> bool {
    let mut rest = datagram;
    while let Some((content, behind)) = split_record(rest) {
        if content == ALERT {
            return true;
        }
        rest = behind;
    }
    false
}

/// The content type of the first record, and what follows the record: a version in two bytes,
/// epoch and sequence number in eight, and the length of the rest in two.
fn split_record(records: &[u8]) -> Option<(u8, &[u8])> {
    let (&[content, 0xfe, 0xfd | 0xff, .., l0, l1], behind) =
        records.split_first_chunk::<RECORD_HEADER>()?
    else {
        return None;
    };
    let (_, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes([l0, l1])))?;
    Some((content, behind))
}

const RECORD_HEADER: usize = 13;

/// RFC 5246 6.2.1.
const ALERT: u8 = 21;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(content: u8, version: [u8; 2], payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [&[content], version.as_slice(), &[0, 1, 0, 0, 0, 0, 0, 2], &length, payload].concat()
    }

    const DTLS_1_2: [u8; 2] = [0xfe, 0xfd];
    const DTLS_1_0: [u8; 2] = [0xfe, 0xff];

    #[test]
    fn every_first_byte_has_its_kind() {
        for (bytes, kind) in [
            (0..=3, Kind::Stun),
            (4..=15, Kind::Other),
            (16..=19, Kind::Zrtp),
            (20..=63, Kind::Dtls),
            (64..=79, Kind::TurnChannel),
            (80..=127, Kind::Other),
            (128..=191, Kind::Media),
            (192..=u8::MAX, Kind::Other),
        ] {
            for byte in bytes {
                assert_eq!(Kind::of(&[byte]), kind, "{byte}");
                assert_eq!(Kind::of(&[byte, 0xff, 0xff]), kind, "{byte} and more");
            }
        }
        assert_eq!(Kind::of(&[]), Kind::Other);
    }

    #[test]
    fn an_alert_is_found_among_records() {
        for version in [DTLS_1_2, DTLS_1_0] {
            let alert = record(21, version, &[0; 26]);
            assert!(is_dtls_alert(&alert));
            assert!(is_dtls_alert(&[record(22, DTLS_1_2, &[9; 40]), alert.clone()].concat()));
            assert!(is_dtls_alert(&[alert, vec![0xff; 3]].concat()));
        }
    }

    #[test]
    fn what_only_looks_like_an_alert_is_none() {
        let recorded = include_bytes!("../../testdata/webrtc/whip-chromium-finished.dtls");
        let inside = record(23, DTLS_1_2, &record(21, DTLS_1_2, &[1, 0]));
        for datagram in [
            recorded.as_slice(),
            &inside,
            &record(21, [3, 3], &[1, 0]),
            &record(21, [0xfe, 0xfe], &[1, 0]),
            &[record(22, [3, 3], &[0]), record(21, DTLS_1_2, &[1, 0])].concat(),
            &[],
            &[21],
        ] {
            assert!(!is_dtls_alert(datagram), "{datagram:02x?}");
        }
    }

    #[test]
    fn an_alert_cut_anywhere_is_none() {
        let first = record(22, DTLS_1_2, &[9; 40]);
        let both = [first.clone(), record(21, DTLS_1_2, &[1, 0])].concat();
        for n in 0..both.len() {
            assert!(!is_dtls_alert(&both[..n]), "{n} bytes");
        }
        assert!(is_dtls_alert(&both));
    }

    proptest! {
        #[test]
        fn any_records_are_walked(records in prop::collection::vec((20..26u8, 0..50usize), 0..8)) {
            let datagram: Vec<u8> = records
                .iter()
                .flat_map(|&(content, length)| record(content, DTLS_1_2, &vec![21; length]))
                .collect();
            let has_alert = records.iter().any(|&(content, _)| content == 21);
            prop_assert_eq!(is_dtls_alert(&datagram), has_alert);
        }
    }
}
