//! SRT, as datagrams come.

use bolero::check;
use srs_proxy::proto::srt::handshake::{BARE, Handshake, MAX_HANDSHAKE, PeerIp, Step};
use srs_proxy::proto::srt::packet::{HEADER, Kind, Packet};
use srs_proxy::proto::srt::rejection::{Rejection, reject};
use srs_proxy::proto::srt::stream_id::{self, MAX_STREAM_ID, Mode};
use srs_proxy::stream::{Ask, BadStream, StreamKey, Vhosts};
use srt_protocol::packet::{ControlTypes, HandshakeVsInfo, Packet as Theirs};

use crate::{RANDOM, corpus};

#[test]
fn packet() {
    check!().with_iterations(RANDOM).with_max_len(100).for_each(|input: &[u8]| {
        let Some(packet) = Packet::parse(input) else {
            assert!(input.len() < HEADER, "a header of {} bytes is none", input.len());
            return;
        };
        assert_eq!(packet.body(), &input[HEADER..]);
        let is_control = input[0] & 0x80 != 0;
        assert_eq!(matches!(packet.kind(), Kind::Data(_)), !is_control);
        if let Kind::Ack { .. } = packet.kind() {
            assert!(packet.body().len() >= 4, "an acknowledgement of nothing");
        }
    });
}

#[test]
fn handshake() {
    check!().with_iterations(RANDOM).with_max_len(2 * MAX_HANDSHAKE).for_each(|input: &[u8]| {
        let Ok(handshake) = Handshake::parse(input) else { return };
        assert!((BARE..=MAX_HANDSHAKE).contains(&input.len()), "{} bytes", input.len());
        let mut written = Vec::new();
        handshake.write(&mut written);
        assert!(written == input, "{handshake:?} is written as {written:02x?}");
        assert_eq!(handshake.bare(), input[..BARE]);
        let extensions = handshake.extensions.iter().map(|(_, content)| 4 + content.len());
        assert_eq!(BARE + extensions.sum::<usize>(), input.len());
        assert_eq!(handshake.clone().into_owned(), handshake);
        let answer = reject(&handshake, Rejection::ROGUE).bare();
        let answer = Handshake::parse(&answer).expect("a rejection");
        assert_eq!(answer.destination, handshake.socket_id);
        assert_eq!(answer.step, Step::Rejection(Rejection::ROGUE));
    });
}

/// The input is the extensions of a conclusion.
#[test]
fn stream_id() {
    check!().with_iterations(RANDOM).with_max_len(1000).for_each(|input: &[u8]| {
        let mut datagram = vec![0x80];
        datagram.resize(BARE, 0);
        datagram.extend_from_slice(input);
        let Ok(handshake) = Handshake::parse(&datagram) else { return };
        let Ok(text) = stream_id::find(&handshake.extensions) else { return };
        assert!(text.len() <= MAX_STREAM_ID, "{} bytes", text.len());
        let content = handshake.extensions.iter().find(|(kind, _)| *kind == 5);
        let content = content.map_or(&[][..], |(_, content)| content);
        let mut words = text.clone().into_bytes();
        words.resize(content.len(), 0);
        words.chunks_mut(4).for_each(<[u8]>::reverse);
        assert_eq!(words, content, "{text:?} is another text");
        let key = StreamKey::new(&Ask::Srt { stream_id: text.as_str().into() }, &Vhosts::default());
        assert_eq!(Mode::of(&text).is_err(), key == Err(BadStream::Mode), "{text:?}");
    });
}

/// Both read the fields of what they both take for a handshake.
#[test]
fn another_implementation_reads_the_same() {
    let mut compared = 0;
    for (name, input) in corpus::of("srt__handshake") {
        let Ok(ours) = Handshake::parse(&input) else { continue };
        // It knows the extensions of a caller that is alone, and panics at others.
        if ours.extensions.iter().any(|(kind, _)| kind > 5) {
            continue;
        }
        let Ok(Theirs::Control(theirs)) = Theirs::parse(&mut input.as_slice(), false) else {
            continue;
        };
        assert_eq!(theirs.dest_sockid.0, ours.destination.0, "{name}");
        let ControlTypes::Handshake(theirs) = theirs.control_type else { panic!("{name}") };
        assert_eq!(theirs.init_seq_num.as_raw(), ours.sequence.get(), "{name}");
        assert_eq!(theirs.max_packet_size.0, u64::from(ours.mtu), "{name}");
        assert_eq!(theirs.max_flow_size.0, u64::from(ours.window), "{name}");
        assert_eq!(theirs.socket_id.0, ours.socket_id.0, "{name}");
        assert_eq!(theirs.syn_cookie.cast_unsigned(), ours.cookie, "{name}");
        // It has another order for IPv6.
        if input[BARE - 12..BARE] == [0; 12] {
            assert_eq!(PeerIp::from(theirs.peer_addr), ours.peer, "{name}");
        }
        let sid = match theirs.info {
            HandshakeVsInfo::V4(_) => None,
            HandshakeVsInfo::V5(info) => info.sid,
        };
        if let Ok(text) = stream_id::find(&ours.extensions) {
            assert_eq!(sid.unwrap_or_default(), text, "{name}");
        }
        compared += 1;
    }
    assert!(compared >= 12, "{compared} handshakes of the corpus were compared");
}
