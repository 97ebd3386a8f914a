//! One direction of a session: from one socket to the other, by a pipe or, in small pieces, by a
//! buffer.

use std::{io, mem};

use super::pipes::{Pipe, Pipes};
use super::side::Side;

/// What all sessions of a thread share.
#[derive(Debug)]
pub(super) struct Kit {
    pub(super) pipes: Pipes,
    buffer: Box<[u8]>,
    /// Bytes written by way of a pipe and by way of the buffer, since they were last asked for.
    pub(super) moved: Moved,
}

/// Bytes, by how they moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) spliced: u64,
    pub(super) copied: u64,
}

impl Kit {
    pub(super) fn new(pipes: Pipes) -> Self {
        Self { pipes, buffer: vec![0; COPY].into(), moved: Moved::default() }
    }
}

/// One direction.
#[derive(Debug)]
pub(super) struct Way {
    source: Source,
    /// Bytes that may still be taken from the source.
    left: u64,
    /// Bytes in this process that the sink has not taken.
    rest: Vec<u8>,
    /// There only while it holds bytes.
    pipe: Option<Pipe>,
    habit: Habit,
    /// How often the pipe was filled in this turn.
    fills: u8,
    /// Something that was taken goes nowhere.
    is_cut: bool,
    /// Its end was asked for when it had come.
    is_ended: bool,
}

/// Where bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The socket.
    Open,
    /// The socket, but they go nowhere: only its end is of interest.
    Unheard,
    /// Nowhere, any more or at all.
    Ended,
}

/// Which socket is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    Source,
    Sink,
}

/// Why a run of a way has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing can be done before a socket is ready.
    Waiting,
    /// It had its share; others are to have theirs.
    Tired,
}

impl Way {
    /// `rest` goes out first, then what comes from the source, `left` bytes of it.
    pub(super) fn new(source: Source, left: u64, rest: Vec<u8>) -> Self {
        let habit = Habit::default();
        Self { source, left, rest, pipe: None, habit, fills: 0, is_cut: false, is_ended: false }
    }

    /// Moves what can be moved now, up to a fair share; `count` is told of bytes that were written.
    pub(super) fn run(
        &mut self,
        from: &mut Side,
        to: &mut Side,
        kit: &mut Kit,
        count: impl Fn(usize),
    ) -> Result<Rest, Broken> {
        self.fills = 0;
        for _ in 0..ROUNDS {
            self.flush(to, kit, &count).map_err(|_| Broken::Sink)?;
            if self.held() > 0 || !from.is_readable() || self.is_dry() {
                self.put_away(kit);
                return Ok(Rest::Waiting);
            }
            self.take(from, to, kit, &count)?;
        }
        self.put_away(kit);
        Ok(Rest::Tired)
    }

    /// Bytes that were taken and not written.
    pub(super) fn held(&self) -> usize {
        self.rest.len() + self.pipe.as_ref().map_or(0, Pipe::held)
    }

    /// Whether the source gives no more.
    pub(super) fn is_dry(&self) -> bool {
        self.source == Source::Ended || self.left == 0
    }

    /// Whether all that was to be taken was taken, and none of it given up.
    pub(super) fn is_complete(&self) -> bool {
        self.left == 0 && !self.is_cut
    }

    /// Whether nothing more comes out of it.
    pub(super) fn is_over(&self) -> bool {
        self.is_dry() && self.held() == 0
    }

    /// True once, when nothing more comes out of it.
    pub(super) fn has_just_ended(&mut self) -> bool {
        self.is_over() && !mem::replace(&mut self.is_ended, true)
    }

    /// Whether what it takes goes nowhere.
    pub(super) fn is_unheard(&self) -> bool {
        self.source == Source::Unheard
    }

    /// Takes nothing more; what is held still goes out.
    pub(super) fn dry_up(&mut self) {
        self.source = Source::Ended;
    }

    /// Takes nothing more, and what is held goes nowhere.
    pub(super) fn give_up(&mut self, kit: &mut Kit) {
        self.dry_up();
        self.is_cut |= self.held() > 0;
        self.rest = Vec::new();
        if let Some(pipe) = self.pipe.take() {
            kit.pipes.give(pipe);
        }
    }

    /// What is held, taken out of the pipe, and how many bytes are still to be taken.
    pub(super) fn into_rest(mut self, kit: &mut Kit) -> io::Result<(Vec<u8>, u64)> {
        if let Some(mut pipe) = self.pipe.take() {
            let drained = pipe.drain(&mut self.rest);
            kit.pipes.give(pipe);
            drained?;
        }
        Ok((self.rest, self.left))
    }

    fn flush(&mut self, to: &mut Side, kit: &mut Kit, count: &impl Fn(usize)) -> io::Result<()> {
        if !self.rest.is_empty() && to.is_writable() {
            let written = to.write(&self.rest)?;
            kit.moved.copied += written as u64;
            count(written);
            if written == self.rest.len() {
                // Gives the memory back: a session that flows holds none.
                self.rest = Vec::new();
            } else {
                self.rest.drain(..written);
            }
        }
        if !self.rest.is_empty() {
            return Ok(());
        }
        while let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.held() > 0 && to.is_writable())
        {
            let result = pipe.empty(to);
            to.spliced_to(&result);
            match result {
                Ok(written) => {
                    kit.moved.spliced += written as u64;
                    count(written);
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes once from the source, and writes what was copied. Nothing is held.
    fn take(
        &mut self,
        from: &mut Side,
        to: &mut Side,
        kit: &mut Kit,
        count: &impl Fn(usize),
    ) -> Result<(), Broken> {
        if self.source == Source::Open && self.habit.splices() {
            self.pipe = self.pipe.take().or_else(|| kit.pipes.take(self.habit.is_bulk()));
        } else {
            // One that was held over from the turn before is of no use to small pieces.
            self.put_away(kit);
        }
        if let Some(pipe) = &mut self.pipe {
            let most = pipe.capacity().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let result = pipe.fill(from, most);
            from.spliced_from(&result);
            self.took(&result)?;
            let taken = result.unwrap_or(0);
            self.fills += u8::from(taken > 0);
            self.habit.spliced(taken);
            return Ok(());
        }
        // Small pieces, or all that there is where no pipe is to be had.
        let most = if self.habit.splices() { COPY } else { SMALL };
        let most = most.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let buffer = kit.buffer.get_mut(..most).unwrap_or_default();
        let result = from.read(buffer);
        self.took(&result)?;
        let bytes = buffer.get(..result.unwrap_or(0)).unwrap_or_default();
        self.habit.copied(bytes.len(), most);
        if self.source != Source::Unheard && !bytes.is_empty() {
            let Ok(written) = to.write(bytes) else {
                self.is_cut = true;
                return Err(Broken::Sink);
            };
            kit.moved.copied += written as u64;
            count(written);
            self.rest.extend_from_slice(bytes.get(written..).unwrap_or_default());
        }
        Ok(())
    }

    /// Takes note of what came from the source, or of its end.
    fn took(&mut self, result: &io::Result<usize>) -> Result<(), Broken> {
        match result {
            Ok(0) => self.source = Source::Ended,
            Ok(n) => self.left -= *n as u64,
            Err(error) if is_passing(error) => {}
            Err(_) => return Err(Broken::Source),
        }
        Ok(())
    }

    /// Gives an empty pipe to whoever needs one next.
    fn put_away(&mut self, kit: &mut Kit) {
        if self.fills > 0 {
            // One filling was not all that there was: how many bytes a pipe holds depends on the
            // network's pieces, so their number does not tell.
            self.habit.is_bulk = self.fills > 1;
        }
        if let Some(pipe) = self.pipe.take_if(|pipe| pipe.held() == 0) {
            kit.pipes.give(pipe);
        }
    }
}

/// By which of the two means the next bytes are taken: what came before tells.
#[derive(Clone, Copy, Debug, Default)]
struct Habit {
    splices: bool,
    is_bulk: bool,
    /// How often in a row a splice has brought no more than a copy would have.
    small: u8,
}

impl Habit {
    fn splices(self) -> bool {
        self.splices
    }

    fn is_bulk(self) -> bool {
        self.is_bulk
    }

    fn copied(&mut self, taken: usize, most: usize) {
        // There is more than a small piece.
        self.splices |= taken == most;
    }

    fn spliced(&mut self, taken: usize) {
        if taken == 0 {
            return;
        }
        self.small = if taken < SMALL { self.small.saturating_add(1) } else { 0 };
        if self.small >= IN_A_ROW {
            *self = Self::default();
        }
    }
}

/// Whether it passes by itself.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Bytes below which a copy costs no more than a splice: docs/data-plane.md, "Choices", has the figures.
const SMALL: usize = 8 * 1024;

/// Bytes of one copy where there is no pipe.
const COPY: usize = 64 * 1024;

/// Small splices in a row that make a stream one of small pieces. Between two pictures there are a
/// few pieces of sound.
const IN_A_ROW: u8 = 8;

/// How often a way takes from its source before others have their turn.
const ROUNDS: usize = 8;

#[cfg(test)]
mod tests;
