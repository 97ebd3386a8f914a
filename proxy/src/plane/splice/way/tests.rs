//! What a way takes by which means, and what it gives back, between sockets of loopback.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::super::pipes::tests::pipes;
use super::super::side::tests::{EVERYTHING, SOON, connection, flood, media, must_come, narrow};
use super::*;

/// A way, both its sockets and both their peers.
struct Rig {
    way: Way,
    from: Side,
    to: Side,
    kit: Kit,
    source: TcpStream,
    sink: TcpStream,
    written: Cell<usize>,
}

impl Rig {
    fn new(way: Way) -> Self {
        let ((from, source), (to, sink)) = (narrow(), narrow());
        let kit = Kit::new(pipes(PAGES));
        let (from, to) = (Side::new(from), Side::new(to));
        Self { way, from, to, kit, source, sink, written: Cell::new(0) }
    }

    fn open(left: u64) -> Self {
        Self::new(Way::new(Source::Open, left, Vec::new()))
    }

    /// Sends these bytes and lets the way have all its turns.
    fn pass(&mut self, bytes: &[u8]) {
        self.source.write_all(bytes).unwrap();
        must_come(&self.from, bytes.len());
        self.run().unwrap();
    }

    fn run(&mut self) -> Result<(), Broken> {
        let Self { way, from, to, kit, written, .. } = self;
        // As if a poller had told of both.
        from.heard(EVERYTHING);
        to.heard(EVERYTHING);
        let count = |bytes| written.set(written.get() + bytes);
        while way.run(from, to, kit, count)? == Rest::Tired {}
        Ok(())
    }

    /// Acts until something comes of it.
    fn run_until<T>(&mut self, act: impl Fn(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(done) = act(self) {
                return done;
            }
            assert!(Instant::now() < deadline, "nothing comes of it");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends until bytes are held, as the sink does not read; all that was sent.
    fn fill(&mut self) -> Vec<u8> {
        let source = self.source.try_clone().unwrap();
        let sent = flood(&source, 0, || self.run().unwrap());
        assert!(self.way.held() > 0, "nothing is held");
        sent
    }

    fn must_receive(&mut self, bytes: &[u8]) {
        let mut received = vec![0; bytes.len()];
        self.sink.read_exact(&mut received).unwrap();
        assert!(received == bytes, "other bytes came");
    }
}

#[test]
fn small_pieces_are_copied() {
    let mut rig = Rig::open(u64::MAX);
    for piece in [&b"a"[..], &[2; 700], &[3; SMALL - 1]] {
        rig.pass(piece);
        rig.must_receive(piece);
    }
    let copied = 1 + 700 + SMALL as u64 - 1;
    assert_eq!(rig.kit.moved, Moved { spliced: 0, copied });
    assert_eq!(rig.kit.pipes.count(), 0, "no pipe was needed");
}

#[test]
fn what_is_more_is_spliced_and_no_pipe_is_kept_behind_it() {
    let mut rig = Rig::open(u64::MAX);
    for round in 1..=20 {
        let bytes = media(round, 16 << 10);
        rig.pass(&bytes);
        rig.must_receive(&bytes);
        assert!(rig.way.pipe.is_none(), "an idle session holds a pipe");
    }
    let copied = SMALL as u64;
    assert_eq!(rig.kit.moved, Moved { spliced: (20 * (16 << 10)) - copied, copied });
    assert_eq!(rig.kit.pipes.count(), 1, "it is the same each time");
    assert_eq!(rig.written.get(), 20 * (16 << 10));
}

#[test]
fn without_a_pipe_all_is_copied() {
    let mut rig = Rig::open(u64::MAX);
    rig.kit.pipes = pipes(0);
    let bytes = media(1, 20_000);
    rig.pass(&bytes);
    rig.must_receive(&bytes);
    assert_eq!(rig.kit.moved, Moved { spliced: 0, copied: 20_000 });
}

#[test]
fn what_a_pipe_holds_is_given_back_to_the_byte() {
    for (left, pages) in [(u64::MAX, PAGES), (1 << 30, PAGES), (u64::MAX, 0), (1 << 30, 0)] {
        let mut rig = Rig::open(left);
        rig.kit.pipes = pipes(pages);
        let sent = rig.fill();
        assert_eq!(rig.way.pipe.is_some(), pages > 0, "what is held is elsewhere");
        let held = rig.way.held();
        let (rest, still) = rig.way.into_rest(&mut rig.kit).unwrap();
        let (written, taken) = (rig.written.get(), rig.written.get() + held);
        assert!(rest == sent[written..taken], "other bytes are held");
        assert_eq!(still, left - taken as u64);
        // Nothing is in the pool that somebody else could get.
        let pipe = rig.kit.pipes.take(false);
        assert!(pipe.is_none_or(|pipe| pipe.held() == 0));
    }
}

#[test]
fn leftovers_come_before_what_the_pipe_holds() {
    let mut rig = Rig::open(100);
    rig.source.write_all(b"in the pipe").unwrap();
    must_come(&rig.from, 11);
    let mut pipe = rig.kit.pipes.take(false).unwrap();
    pipe.fill(&rig.from, 11).unwrap();
    let way = Way { rest: b"left over, ".to_vec(), pipe: Some(pipe), ..rig.way };
    assert_eq!(way.held(), 22);
    let (rest, left) = way.into_rest(&mut rig.kit).unwrap();
    assert_eq!((rest.as_slice(), left), (&b"left over, in the pipe"[..], 100));
    assert_eq!(rig.kit.pipes.count(), 1);
}

#[test]
fn leftovers_go_out_before_anything_is_taken() {
    let leftovers = media(1, 4 << 20);
    let mut rig = Rig::new(Way::new(Source::Open, u64::MAX, leftovers.clone()));
    rig.pass(b"behind them");
    assert!(rig.way.held() > 0 && rig.way.left == u64::MAX, "it was taken too early");
    let mut received = vec![0; leftovers.len()];
    let mut read = 0;
    while read < received.len() {
        read += rig.sink.read(&mut received[read..]).unwrap();
        rig.run().unwrap();
    }
    assert!(received == leftovers, "other bytes came");
    rig.must_receive(b"behind them");
    assert_eq!(rig.way.rest.capacity(), 0, "a session that flows holds no memory");
}

#[test]
fn no_byte_is_taken_behind_the_last_one() {
    for length in [1, SMALL - 1, SMALL, SMALL + 1, 30_000] {
        let mut rig = Rig::open(length as u64);
        let bytes = media(1, 40_000);
        rig.pass(&bytes);
        rig.must_receive(&bytes[..length]);
        assert!(rig.way.is_over() && rig.way.is_complete(), "of {length} there is some left");
        must_come(&rig.from, bytes.len() - length);
        assert!(rig.way.has_just_ended() && !rig.way.has_just_ended(), "it is told once");
    }
}

#[test]
fn what_is_unheard_goes_nowhere_until_its_end() {
    let mut rig = Rig::new(Way::new(Source::Unheard, u64::MAX, Vec::new()));
    rig.pass(&media(1, 40_000));
    assert_eq!((rig.kit.moved, rig.way.held()), (Moved::default(), 0));
    assert!(!rig.way.is_over());
    rig.source.shutdown(Shutdown::Write).unwrap();
    rig.run_until(|rig| {
        rig.run().unwrap();
        rig.way.is_over().then_some(())
    });
}

#[test]
fn a_sink_that_is_lost_is_told() {
    let mut rig = Rig::open(u64::MAX);
    rig.fill();
    drop(mem::replace(&mut rig.sink, connection().0));
    assert_eq!(rig.run_until(|rig| rig.run().err()), Broken::Sink);
    rig.way.give_up(&mut rig.kit);
    assert_eq!((rig.way.held(), rig.kit.pipes.count()), (0, 0), "its pipe is closed");
}

#[test]
fn a_full_buffer_begins_splicing_and_small_pieces_in_a_row_end_it() {
    let mut habit = Habit::default();
    habit.copied(SMALL - 1, SMALL);
    assert!(!habit.splices());
    habit.copied(SMALL, SMALL);
    assert!(habit.splices() && !habit.is_bulk());
    for _ in 0..3 {
        // Sound between two pictures.
        for _ in 1..IN_A_ROW {
            habit.spliced(SMALL - 1);
        }
        habit.spliced(SMALL);
        assert!(habit.splices());
    }
    for _ in 1..IN_A_ROW {
        habit.spliced(1);
    }
    assert!(habit.splices());
    habit.spliced(1);
    assert!(!habit.splices());
}

#[test]
fn a_last_piece_that_nobody_takes_was_not_moved() {
    let mut rig = Rig::open(5);
    rig.source.write_all(b"media").unwrap();
    must_come(&rig.from, 5);
    // A connection to which nothing can be written any more.
    rig.to.end();
    assert_eq!(rig.run(), Err(Broken::Sink));
    rig.way.give_up(&mut rig.kit);
    assert!(rig.way.is_over() && !rig.way.is_complete());
}

#[test]
fn bulk_is_what_one_filling_does_not_bring() {
    let mut rig = Rig::open(u64::MAX);
    rig.pass(&media(1, 16 << 10));
    rig.must_receive(&media(1, 16 << 10));
    rig.pass(&media(2, 16 << 10));
    rig.must_receive(&media(2, 16 << 10));
    assert!(rig.way.habit.splices() && !rig.way.habit.is_bulk());
    rig.fill();
    assert!(rig.way.habit.is_bulk());
}

/// Pages that are enough to keep some pipes.
const PAGES: usize = 1024;
