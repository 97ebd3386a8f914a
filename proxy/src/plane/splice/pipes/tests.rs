//! Pipes between sockets of loopback.

use std::io::Write;
use std::net::TcpStream;

use super::super::side::tests::{connection, must_come};
use super::*;

/// The pipes of a thread that is alone with so many slots.
pub(in crate::plane::splice) fn pipes(slots: usize) -> Pipes {
    Pipes::new(Arc::new(Budget::new(slots)))
}

fn page() -> usize {
    Budget::new(0).page
}

/// A pipe of these with so many bytes in it.
fn filled(pipes: &mut Pipes, bytes: &[u8]) -> Pipe {
    let mut pipe = pipes.take(false).unwrap();
    let (near, _far) = sent(bytes);
    assert_eq!(pipe.fill(&near, bytes.len()).unwrap(), bytes.len());
    pipe
}

/// A side that has these bytes to be read, and its peer.
fn sent(bytes: &[u8]) -> (Side, TcpStream) {
    let (near, mut far) = connection();
    far.write_all(bytes).unwrap();
    let side = Side::new(near);
    must_come(&side, bytes.len());
    (side, far)
}

/// Bytes that the system lets the pipe hold.
fn size(pipe: &Pipe) -> usize {
    usize::try_from(fcntl(&pipe.entrance, FcntlArg::F_GETPIPE_SZ).unwrap()).unwrap()
}

#[test]
fn all_pipes_together_keep_to_their_pages() {
    let mut pipes = pipes(2 * SLOTS + 1);
    let first = pipes.take(false).unwrap();
    let second = pipes.take(true).unwrap();
    assert_eq!(second.capacity(), SLOTS * page(), "there is no room for a large one");
    assert!(pipes.take(false).is_none(), "there is no room for a third");
    assert_eq!(pipes.count(), 2);
    pipes.give(first);
    assert!(pipes.take(false).is_some(), "the first one can be used again");
    assert_eq!(pipes.count(), 2);
}

#[test]
fn large_pipes_are_for_bulk_alone() {
    let mut pipes = pipes(4 * LARGE + FEW);
    let large = pipes.take(true).unwrap();
    assert_eq!((large.capacity(), size(&large)), (LARGE * page(), LARGE * page()));
    pipes.give(large);
    let small = pipes.take(false).unwrap();
    assert_eq!((small.capacity(), size(&small)), (SLOTS * page(), SLOTS * page()));
    let large = pipes.take(true).unwrap();
    assert_eq!(size(&large), LARGE * page());
    assert_eq!(pipes.count(), 2, "the large one was used again");
}

#[test]
fn where_there_is_no_room_for_another_a_large_one_serves() {
    let budget = Arc::new(Budget::new(LARGE + FEW));
    let mut pipes = Pipes::new(Arc::clone(&budget));
    let large = pipes.take(true).unwrap();
    pipes.give(large);
    assert!(budget.take(FEW), "others take what is left");
    let any = pipes.take(false).unwrap();
    assert_eq!(size(&any), LARGE * page());
    pipes.give(any);
    assert_eq!(pipes.count(), 0, "others may need what is so scarce");
}

#[test]
fn threads_share_what_there_is() {
    let budget = Arc::new(Budget::new(2 * SLOTS));
    let (mut one, mut other) = (Pipes::new(Arc::clone(&budget)), Pipes::new(Arc::clone(&budget)));
    let taken = [one.take(false).unwrap(), one.take(false).unwrap()];
    assert!(other.take(false).is_none());
    for pipe in taken {
        one.give(pipe);
    }
    drop(one);
    assert!(other.take(false).is_some(), "a thread that ends leaves its share");
}

#[test]
fn pages_of_a_large_pipe_that_is_closed_come_back() {
    let mut pipes = pipes(LARGE);
    for _ in 0..3 {
        let (near, _far) = sent(b"media");
        let mut large = pipes.take(true).unwrap();
        assert_eq!(size(&large), LARGE * page());
        large.fill(&near, 5).unwrap();
        pipes.give(large);
        assert_eq!(pipes.count(), 0);
    }
}

#[test]
fn a_pipe_with_bytes_in_it_is_never_used_again() {
    let mut pipes = pipes(SLOTS);
    let pipe = filled(&mut pipes, b"of another session");
    pipes.give(pipe);
    assert_eq!(pipes.count(), 0);
    let pipe = pipes.take(false).unwrap();
    assert_eq!(pipe.held(), 0);
    let read = read(&pipe.exit, &mut [0; 64]);
    assert_eq!(read, Err(Errno::EAGAIN), "there is something in it");
}

#[test]
fn so_many_are_kept_and_no_more() {
    let mut pipes = pipes((SPARE + 10) * SLOTS + FEW);
    let taken: Vec<_> = (0..SPARE + 10).map_while(|_| pipes.take(false)).collect();
    assert_eq!((taken.len(), pipes.count()), (SPARE + 10, SPARE + 10));
    for pipe in taken {
        pipes.give(pipe);
    }
    assert_eq!(pipes.count(), SPARE);
}

#[test]
fn what_is_drained_comes_behind_what_was_there() {
    let mut pipes = pipes(SLOTS + FEW);
    let mut pipe = filled(&mut pipes, b"second");
    let mut bytes = b"first, ".to_vec();
    pipe.drain(&mut bytes).unwrap();
    assert_eq!((bytes.as_slice(), pipe.held()), (&b"first, second"[..], 0));
    pipes.give(pipe);
    assert_eq!(pipes.count(), 1, "it is empty, and can be used again");
}
