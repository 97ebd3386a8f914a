//! Single questions to the kernel by netlink, each on a socket of its own.

use std::{io, iter};

use nix::libc::{self, c_int};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use rtnetlink::sys::{Socket, SocketAddr};

/// One message of an answer: its kind, and what is behind its header.
pub(super) type Answer = (u16, Vec<u8>);

/// Asks, and returns every message of the answer; an error if the kernel has one. With `NLM_F_DUMP`
/// among the `flags` it is asked for all of them.
pub(super) fn ask(
    protocol: isize,
    kind: u16,
    flags: u16,
    question: &[u8],
) -> io::Result<Vec<Answer>> {
    let socket = Socket::new(protocol)?;
    // The kernel has answered, or begun to, when the question is sent.
    socket.set_non_blocking(true)?;
    socket.send_to(&message(kind, flags, question), &SocketAddr::new(0, 0), 0)?;
    let mut answers = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        for (kind, body) in messages(&datagram) {
            match kind {
                NLMSG_ERROR => return refusal(body).map_or(Ok(answers), Err),
                NLMSG_DONE => return Ok(answers),
                kind => answers.push((kind, body.to_vec())),
            }
        }
    }
}

/// `struct nlmsghdr` (linux/netlink.h), and what follows.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let flags = flags | NLM_F_REQUEST | NLM_F_ACK;
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // A number of the question and of the socket, which tell nothing where there is one.
    message.extend([0; 8]);
    message.extend(body);
    message
}

const HEADER: usize = size_of::<libc::nlmsghdr>();

/// The messages of a datagram; what is no whole message ends it.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    iter::from_fn(move || {
        let (length, rest) = datagram.split_first_chunk()?;
        let length = usize::try_from(u32::from_ne_bytes(*length)).ok()?;
        let (kind, _) = rest.split_first_chunk()?;
        let body = datagram.get(HEADER..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes(*kind), body))
    })
}

/// Why the kernel refuses; `None` if it only confirms.
fn refusal(body: &[u8]) -> Option<io::Error> {
    let (code, _) = body.split_first_chunk()?;
    let code = c_int::from_ne_bytes(*code);
    (code != 0).then(|| io::Error::from_raw_os_error(code.saturating_neg()))
}

/// One attribute, of this kind. `struct nlattr` (linux/netlink.h), with the value behind it.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
    let mut attribute = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// The value of the first attribute of this kind.
pub(super) fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    all(attributes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// The value of an attribute that is as large as an array.
pub(super) fn find_array<const SIZE: usize>(attributes: &[u8], kind: u16) -> Option<[u8; SIZE]> {
    find(attributes, kind)?.try_into().ok()
}

/// Kinds and values; what is no whole attribute ends them.
fn all(mut attributes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    iter::from_fn(move || {
        let (length, rest) = attributes.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        let (kind, _) = rest.split_first_chunk()?;
        let value = attributes.get(ATTRIBUTE..length)?;
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes(*kind) & KIND, value))
    })
}

const ATTRIBUTE: usize = 4;
/// `NLA_TYPE_MASK`: the two bits above say what is in the value.
const KIND: u16 = 0x3fff;

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::{all, attribute, find_array, message, messages, refusal};

    #[test]
    fn attributes_are_found_as_far_as_they_are_whole() {
        let two = [attribute(1, b"netdev\0"), attribute(0x8002, &7_u32.to_ne_bytes())].concat();
        assert_eq!(find_array(&two, 2).map(u32::from_ne_bytes), Some(7), "whatever bits it has");
        assert_eq!(find_array::<8>(&two, 2), None, "it is of another size");
        for length in 0..two.len() {
            let whole = usize::from(length >= 11);
            assert_eq!(all(&two[..length]).count(), whole, "{length} bytes");
        }
        assert_eq!(all(&[0; 64]).count(), 0, "attributes without a length");
    }

    #[test]
    fn a_datagram_has_messages_as_far_as_they_are_whole() {
        let two = [message(3, 0, b"body"), message(4, 0, b"")].concat();
        let found: Vec<_> = messages(&two).collect();
        assert_eq!(found, [(3, b"body".as_slice()), (4, b"")]);
        for length in 0..two.len() {
            let whole = usize::from(length >= 20);
            assert_eq!(messages(&two[..length]).count(), whole, "{length} bytes");
        }
        assert_eq!(messages(&[0; 64]).count(), 0, "messages without a length");
    }

    #[test]
    fn a_refusal_has_a_number() {
        let code = |number: i32| refusal(&number.to_ne_bytes()).and_then(|it| it.raw_os_error());
        assert_eq!(code(0), None);
        assert_eq!(code(-(Errno::ENODEV as i32)), Some(Errno::ENODEV as i32));
    }
}
