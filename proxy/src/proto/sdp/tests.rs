use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const CHROMIUM_OFFER: &str = include_str!("../../../testdata/webrtc/whip-chromium-offer.sdp");
const CHROMIUM_ANSWER: &str = include_str!("../../../testdata/webrtc/whip-chromium-answer.sdp");
const AIORTC_OFFER: &str = include_str!("../../../testdata/webrtc/whip-aiortc-offer.sdp");
const AIORTC_ANSWER: &str = include_str!("../../../testdata/webrtc/whip-aiortc-answer.sdp");
const WHEP_CHROMIUM_OFFER: &str = include_str!("../../../testdata/webrtc/whep-chromium-offer.sdp");
const WHEP_CHROMIUM_ANSWER: &str =
    include_str!("../../../testdata/webrtc/whep-chromium-answer.sdp");
const WHEP_AIORTC_OFFER: &str = include_str!("../../../testdata/webrtc/whep-aiortc-offer.sdp");
const WHEP_AIORTC_ANSWER: &str = include_str!("../../../testdata/webrtc/whep-aiortc-answer.sdp");

const ANSWERS: [&str; 4] =
    [CHROMIUM_ANSWER, AIORTC_ANSWER, WHEP_CHROMIUM_ANSWER, WHEP_AIORTC_ANSWER];
const OFFERS: [&str; 4] = [CHROMIUM_OFFER, AIORTC_OFFER, WHEP_CHROMIUM_OFFER, WHEP_AIORTC_OFFER];

/// The candidate of SRS, in every section of every answer.
const SRS: &str = "a=candidate:0 1 udp 2130706431 10.99.0.1 8001 typ host generation 0\r\n";

fn udp(address: &str) -> Offered {
    Offered { address: address.parse().unwrap(), transport: Transport::Udp }
}

fn tcp(address: &str) -> Offered {
    Offered { address: address.parse().unwrap(), transport: Transport::Tcp }
}

#[test]
fn recorded_credentials_are_found() {
    for (sdp, ufrag, password) in [
        (CHROMIUM_OFFER, "+Nfv", "Ya3TpSjDVtpXWmGjhVmEV65k"),
        (CHROMIUM_ANSWER, "745d7336", "mr5763103m10691d7wsdjs0eh38559o8"),
        (AIORTC_OFFER, "hunt", "fMojAsnQQmpKPHBvpYN2lJ"),
        (AIORTC_ANSWER, "3o89at73", "7r5spl543ic993858zp1qeg473612cj9"),
    ] {
        let expected = Ice { ufrag: ufrag.to_owned(), password: password.to_owned() };
        assert_eq!(ice(sdp), Ok(expected));
    }
}

#[test]
fn credentials_that_cannot_be_are_refused() {
    let sdp = |ufrag: &str, password: &str| {
        ice(&format!("v=0\nm=audio 9\na=ice-ufrag:{ufrag}\r\na=ice-pwd:{password}"))
    };
    let password = "p".repeat(22);
    assert!(sdp("a", &password).is_ok() && sdp("a-=#_+/", &password).is_ok());
    assert!(sdp(&"u".repeat(256), &"p".repeat(256)).is_ok());
    for ufrag in ["", " abcd", "ab:cd", "ab cd", "ab\rcd", "ü", &"u".repeat(257)] {
        assert_eq!(sdp(ufrag, &password), Err(BadSdp::Ufrag), "{ufrag:?}");
    }
    for password in ["", &"p".repeat(21), &"p".repeat(257), &format!("{password}:")] {
        assert_eq!(sdp("abcd", password), Err(BadSdp::Password), "{password:?}");
    }
    assert_eq!(ice(""), Err(BadSdp::NoUfrag));
    assert_eq!(ice("a=ice-ufrag:abcd"), Err(BadSdp::NoPassword));
    assert_eq!(ice("x a=ice-ufrag:abcd"), Err(BadSdp::NoUfrag), "it begins no line");
    let apart = format!("m=audio 9\na=ice-ufrag:abcd\nm=video 9\na=ice-pwd:{password}");
    assert_eq!(ice(&apart), Err(BadSdp::NoPassword), "another section's");
}

/// A section with credentials of its own, whose ufrag is its mid.
fn with_ice(media: &str, mid: &str) -> String {
    let password = mid.repeat(22);
    format!("m={media}\r\na=mid:{mid}\r\na=ice-ufrag:{mid}\r\na=ice-pwd:{password}\r\n")
}

#[test]
fn credentials_are_those_of_the_section_in_which_all_are_bundled() {
    let [audio, video] =
        [("audio 9 RTP", "a"), ("video 9 RTP", "v")].map(|(m, mid)| with_ice(m, mid));
    let session = "a=ice-ufrag:s\r\na=ice-pwd:ssssssssssssssssssssss\r\n";
    for (head, mid, found) in [
        ("", None, "a"),
        ("a=group:BUNDLE v a\r\n", Some("v"), "v"),
        ("a=group:LS a v\r\na=group:BUNDLE v\r\na=group:BUNDLE a\r\n", Some("v"), "v"),
        ("a=group:BUNDLE a v\r\n", Some("a"), "a"),
        ("a=group:BUNDLE\r\n", None, "a"),
        ("a=group:BUNDLE x\r\n", Some("x"), "a"),
        (session, None, "s"),
        (&format!("a=group:BUNDLE x\r\n{session}"), Some("x"), "s"),
        (&format!("a=group:BUNDLE v a\r\n{session}"), Some("v"), "v"),
    ] {
        let sdp = format!("v=0\r\n{head}{audio}{video}");
        assert_eq!(bundled_mid(&sdp), mid, "{head}");
        assert_eq!(ice(&sdp).map(|ice| ice.ufrag).as_deref(), Ok(found), "{head}");
    }
    let bare = "v=0\r\nm=audio 9 RTP\r\na=mid:a\r\n";
    let both = format!("{bare}{video}");
    assert_eq!(ice_of(&both, Some("a")).map(|ice| ice.ufrag).as_deref(), Ok("v"), "it has none");
}

#[test]
fn a_section_that_is_rejected_has_no_credentials() {
    let video = with_ice("video 9 RTP", "v");
    for (audio, found) in [("audio 0 RTP", "v"), ("audio 0/2 RTP", "v"), ("audio 10 RTP", "a")] {
        let audio = with_ice(audio, "a");
        for mid in [None, Some("a")] {
            let ice = ice_of(&format!("v=0\r\n{audio}{video}"), mid);
            assert_eq!(ice.map(|ice| ice.ufrag).as_deref(), Ok(found), "{audio}");
        }
        let bundled = format!("v=0\r\n{audio}a=bundle-only\r\n{video}");
        assert_eq!(ice(&bundled).map(|ice| ice.ufrag).as_deref(), Ok("a"), "{audio}");
    }
    assert_eq!(ice(&with_ice("audio 0 RTP", "a")), Err(BadSdp::NoUfrag));
}

#[test]
fn the_candidate_of_srs_becomes_the_proxy_s_and_no_other_byte_changes() {
    let srs = "10.99.0.1 8001 typ host";
    for answer in ANSWERS {
        assert_eq!(answer.matches(SRS).count(), 2);
        let v4 = answer.replace(srs, "203.0.113.7 8000 typ host");
        assert_eq!(with_candidates(answer, &[udp("203.0.113.7:8000")]), v4);
        let v6 = answer.replace(srs, "2001:db8::7 8000 typ host");
        assert_eq!(with_candidates(answer, &[udp("[2001:db8::7]:8000")]), v6);
        let mapped = udp("[::ffff:203.0.113.7]:8000");
        assert_eq!(with_candidates(answer, &[mapped]), v4, "clients know no mapped addresses");
    }
}

#[test]
fn several_addresses_become_several_candidates() {
    let offered = [udp("203.0.113.7:8000"), tcp("203.0.113.7:8443"), udp("[2001:db8::7]:8000")];
    let lines = "a=candidate:0 1 udp 2130706431 203.0.113.7 8000 typ host generation 0\r\n\
                 a=candidate:3 1 udp 2130706175 2001:db8::7 8000 typ host generation 0\r\n\
                 a=candidate:2 1 tcp 1520435199 203.0.113.7 8443 typ host tcptype passive \
                 generation 0\r\n";
    for answer in ANSWERS {
        assert_eq!(with_candidates(answer, &offered), answer.replace(SRS, lines));
    }
}

#[test]
fn where_nothing_is_offered_no_candidate_is_left() {
    for sdp in ANSWERS.into_iter().chain(OFFERS) {
        let without: String =
            sdp.split_inclusive('\n').filter(|line| !line.starts_with("a=candidate")).collect();
        assert_eq!(with_candidates(sdp, &[]), without);
    }
}

#[test]
fn an_offer_of_aiortc_is_edited_like_an_answer() {
    let expected = AIORTC_OFFER
        .replace("10.99.0.1 48463 typ host", "203.0.113.7 8000 typ host")
        .replace("10.99.0.1 35948 typ host", "203.0.113.7 8000 typ host");
    assert_eq!(with_candidates(AIORTC_OFFER, &[udp("203.0.113.7:8000")]), expected);
    let found: Vec<_> = candidates(AIORTC_OFFER).into_iter().map(|c| (c.address, c.port)).collect();
    assert_eq!(found, [("10.99.0.1".to_owned(), 48463), ("10.99.0.1".to_owned(), 35948)]);
}

#[test]
fn an_offer_without_candidates_gets_them_at_the_end_of_its_first_media_section() {
    let line = "a=candidate:1 1 udp 2130706431 203.0.113.7 8000 typ host\r\n";
    let expected = CHROMIUM_OFFER.replace("m=video", &format!("{line}m=video"));
    assert_eq!(with_candidates(CHROMIUM_OFFER, &[udp("203.0.113.7:8000")]), expected);
}

#[test]
fn tcp_candidates_are_served_or_dropped() {
    let sdp = "m=audio 9\n\
               a=candidate:1 1 UDP 2130706431 192.0.2.1 8001 typ srflx raddr 10.0.0.1 rport 9\n\
               a=candidate:2 1 tcp 1671430143 192.0.2.1 8001 typ host tcptype passive \
               generation 0\n\
               a=mid:0\n";
    assert_eq!(
        with_candidates(sdp, &[udp("203.0.113.7:8000")]),
        "m=audio 9\na=candidate:1 1 udp 2130706431 203.0.113.7 8000 typ host\na=mid:0\n"
    );
    assert_eq!(
        with_candidates(sdp, &[tcp("203.0.113.7:8000"), tcp("203.0.113.8:8000")]),
        "m=audio 9\n\
         a=candidate:2 1 tcp 1671430143 203.0.113.7 8000 typ host tcptype passive generation 0\n\
         a=candidate:4 1 tcp 1520435199 203.0.113.8 8000 typ host tcptype passive generation 0\n\
         a=mid:0\n"
    );
    let tcp_only = "m=audio 9\na=candidate:2 1 tcp 7 192.0.2.1 8001 typ host tcptype passive\n";
    assert_eq!(with_candidates(tcp_only, &[udp("203.0.113.7:8000")]), "m=audio 9\n");
}

#[test]
fn a_line_that_is_malformed_does_not_tell_the_origin_s_address() {
    for line in [
        "a=candidate:",
        "a=candidate:0 1 udp 1 192.0.2.1 8001 typ",
        "a=candidate:0 1 udp 1 192.0.2.1 8001 type host",
        "a=candidate:0 1 udp 1 192.0.2.1 8001 typ guest",
        "a=candidate:0 1 udp 1 192.0.2.1 8001 typ host generation",
        "a=candidate:0 1 udp 1 192.0.2.1 65536 typ host",
        "a=candidate:0 1 udp 4294967296 192.0.2.1 8001 typ host",
        "a=candidate:0 1 udp +1 192.0.2.1 8001 typ host",
        "a=candidate:0 257 udp 1 192.0.2.1 8001 typ host",
        "a=candidate:0 1 sctp 1 192.0.2.1 8001 typ host",
        "a=candidate:a-b 1 udp 1 192.0.2.1 8001 typ host",
        "a=candidate:123456789012345678901234567890123 1 udp 1 192.0.2.1 8001 typ host",
        "a=candidate:0 1 tcp 1 192.0.2.1 8001 typ host tcptype neither",
    ] {
        assert_eq!(Candidate::parse(line), None, "{line}");
        let sdp = format!("v=0\r\nm=audio 9\r\n{line}\r\na=mid:0\r\n");
        assert_eq!(
            with_candidates(&sdp, &[udp("203.0.113.7:8000")]),
            "v=0\r\nm=audio 9\r\na=candidate:1 1 udp 2130706431 203.0.113.7 8000 typ host\r\n\
             a=mid:0\r\n",
            "{line}"
        );
    }
}

#[test]
fn what_browsers_write_is_a_candidate() {
    for (line, address, tcptype) in [
        (
            "a=candidate:842163049 1 udp 1677729535 192.0.2.1 50000 typ srflx raddr 0.0.0.0 rport 0 \
             generation 0 ufrag a+b/ network-id 1 network-cost 10",
            "192.0.2.1",
            None,
        ),
        (
            "a=candidate:1 1 UDP 2122252543 8d1a6dc2-6a3d-4f6e.local 50000 typ host",
            "8d1a6dc2-6a3d-4f6e.local",
            None,
        ),
        (
            "a=candidate:2 1 TCP 2105524479 2001:db8::1 9 typ host tcptype active",
            "2001:db8::1",
            Some(TcpType::Active),
        ),
    ] {
        let candidate = Candidate::parse(line).unwrap();
        assert_eq!((candidate.address.as_str(), candidate.tcptype), (address, tcptype));
        assert_eq!(Candidate::parse(&candidate.to_string()), Some(candidate));
    }
}

#[test]
fn candidates_of_rtcp_go_as_everything_has_one_port() {
    let sdp = "m=audio 9\r\na=candidate:0 1 udp 9000 192.0.2.1 8001 typ host\r\n\
               a=candidate:0 2 udp 8999 192.0.2.1 8002 typ host\r\n";
    let edited = with_candidates(sdp, &[udp("203.0.113.7:1"), udp("203.0.113.8:2")]);
    assert_eq!(
        edited,
        "m=audio 9\r\na=candidate:0 1 udp 9000 203.0.113.7 1 typ host\r\n\
         a=candidate:2 1 udp 8744 203.0.113.8 2 typ host\r\n"
    );
}

#[test]
fn a_fragment_is_edited_with_and_without_media() {
    let offered = [udp("203.0.113.7:8000")];
    let lines = "a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n";
    let line = |address: &str| format!("a=candidate:9 1 udp 77 {address} typ host\r\n");
    let media = "m=audio 9 RTP/AVP 0\r\na=mid:0\r\n";
    let end = "a=end-of-candidates\r\n";
    for (fragment, expected) in [
        (
            [lines, media, &line("192.0.2.1 1"), end].concat(),
            [lines, media, &line("203.0.113.7 8000"), end].concat(),
        ),
        (
            [lines, &line("192.0.2.1 1"), end].concat(),
            [lines, &line("203.0.113.7 8000"), end].concat(),
        ),
        ([lines, media, end].concat(), [lines, media, OURS, end].concat()),
        ([lines, media].concat(), [lines, media, OURS].concat()),
        (lines.to_owned(), [lines, OURS].concat()),
    ] {
        assert_eq!(with_candidates(&fragment, &offered), expected);
    }
    assert_eq!(with_candidates("", &offered), "");
}

const OURS: &str = "a=candidate:1 1 udp 2130706431 203.0.113.7 8000 typ host\r\n";

#[test]
fn line_ends_are_those_of_the_description() {
    let offered = [udp("203.0.113.7:8000"), udp("203.0.113.8:8000")];
    for end in ["\r\n", "\n"] {
        for last in [end, ""] {
            let lines = |lines: &[&str]| lines.join(end) + last;
            let candidate = |foundation: u8, priority: u32, address: &str| {
                format!("a=candidate:{foundation} 1 udp {priority} {address} 8000 typ host")
            };
            let original = lines(&["v=0", "m=audio 9", &candidate(7, 900, "192.0.2.1")]);
            let expected = lines(&[
                "v=0",
                "m=audio 9",
                &candidate(7, 900, "203.0.113.7"),
                &candidate(2, 644, "203.0.113.8"),
            ]);
            assert_eq!(with_candidates(&original, &offered), expected);
        }
    }
}

#[test]
fn priorities_stay_above_zero() {
    let sdp = "m=audio 9\na=candidate:1 1 udp 3 192.0.2.1 1 typ host\n";
    let offered = [udp("203.0.113.7:1"), udp("203.0.113.8:1"), tcp("203.0.113.7:1")];
    let found: Vec<_> = candidates(&with_candidates(sdp, &offered))
        .into_iter()
        .map(|candidate| (candidate.foundation, candidate.priority))
        .collect();
    assert_eq!(found, [("1".into(), 3), ("3".into(), 1), ("4".into(), 1)]);
}

proptest! {
    #[test]
    fn what_is_no_candidate_survives_byte_for_byte(
        lines in vec(line(), 0..30),
        ends_open: bool,
        offered in vec(offered(), 0..5),
    ) {
        let mut sdp = lines.concat();
        if ends_open {
            sdp.truncate(sdp.trim_end_matches(['\r', '\n']).len());
        }
        let edited = with_candidates(&sdp, &offered);
        prop_assert_eq!(others(&edited), others(&sdp));
        let addresses: Vec<_> = offered
            .iter()
            .map(|o| (o.transport, o.address.ip().to_canonical().to_string(), o.address.port()))
            .collect();
        let mut names = HashSet::new();
        for section in sections(&edited) {
            names.clear();
            for candidate in section.lines().filter(|line| line.starts_with(CANDIDATE)) {
                let candidate = Candidate::parse(candidate).expect("a candidate of our own");
                prop_assert!(candidate.priority > 0);
                prop_assert!(names.insert((candidate.foundation.clone(), candidate.priority)));
                let address = (candidate.transport, candidate.address, candidate.port);
                prop_assert!(addresses.contains(&address), "{:?} is not ours", address);
            }
        }
        // Where TCP alone was and UDP alone is offered nothing is left to stand in for.
        if !candidates(&edited).is_empty() {
            prop_assert!(with_candidates(&edited, &offered).lines().eq(edited.lines()), "twice");
        }
    }

    #[test]
    fn a_candidate_is_read_as_it_was_written(
        foundation in "[a-zA-Z0-9+/]{1,32}",
        (component, priority, port) in (0..=256u16, any::<u32>(), any::<u16>()),
        address in "[a-z0-9:.]{1,40}",
        extensions in vec(("x-[a-z]{1,9}", "[!-~]{1,9}"), 0..4),
        (transport, kind, tcptype) in (0..2usize, 0..4usize, 0..4usize),
    ) {
        let candidate = Candidate {
            foundation,
            component,
            transport: TRANSPORTS[transport].0,
            priority,
            address,
            port,
            kind: KINDS[kind].0,
            tcptype: TCP_TYPES.get(tcptype).map(|(tcptype, _)| *tcptype),
            extensions,
        };
        prop_assert_eq!(Candidate::parse(&candidate.to_string()), Some(candidate));
    }
}

/// The lines that are no candidates, without the ends: a last one without an end gets one when a
/// line is put behind it.
fn others(sdp: &str) -> Vec<&str> {
    let lines = sdp.lines().filter(|line| !line.starts_with(CANDIDATE));
    lines.map(|line| line.trim_end_matches('\r')).collect()
}

fn line() -> impl Strategy<Value = String> {
    let candidate = (0..400u32, 1..3u32, any::<bool>(), 1..5000u32).prop_map(
        |(foundation, component, is_tcp, priority)| {
            let (transport, tail) = if is_tcp {
                ("tcp", " tcptype passive")
            } else {
                ("UDP", " raddr 10.0.0.1 rport 1")
            };
            // Distinct in its section, as an origin writes them.
            let priority = priority * 1000 + foundation;
            format!(
                "a=candidate:{foundation} {component} {transport} {priority} 192.0.2.1 8001 typ \
                 host{tail} generation 0"
            )
        },
    );
    let text = prop_oneof![
        3 => Just("m=audio 9 UDP/TLS/RTP/SAVPF 111".to_owned()),
        2 => Just("a=end-of-candidates".to_owned()),
        1 => "a=candidate:[ -~]{0,40}",
        4 => candidate,
        6 => "[a-z]=[ -~é]{0,40}",
    ];
    (text, any::<bool>()).prop_map(|(text, is_crlf)| text + if is_crlf { "\r\n" } else { "\n" })
}

fn offered() -> impl Strategy<Value = Offered> {
    let address =
        prop_oneof![any::<[u8; 4]>().prop_map(Into::into), any::<[u8; 16]>().prop_map(Into::into)];
    (address, any::<u16>(), 0..2usize).prop_map(|(ip, port, transport)| Offered {
        address: SocketAddr::new(ip, port),
        transport: TRANSPORTS[transport].0,
    })
}
