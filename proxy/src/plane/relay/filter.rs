//! A look at the bytes that pass through the relay.

use crate::plane::{Leg, Outbox};

/// Looks at the bytes that pass, and may replace them.
pub trait Filter {
    /// What the relay's caller must hear of before it goes on.
    type Turn;
    /// Why the session cannot go on.
    type Fault;

    /// `bytes` came from `from`. With [`Passed::Verbatim`] they go on as they are; with
    /// [`Passed::Written`] the filter has put what goes on into `out`, for either leg.
    fn pass(&mut self, from: Leg, bytes: &[u8], out: &mut Outbox) -> Result<Passed, Self::Fault>;

    /// Something that has turned since the last call: the relay gives it to its caller. `out` is
    /// what waits to be written.
    fn turn(&mut self, _out: &Outbox) -> Option<Self::Turn> {
        None
    }

    /// Whether it has all that it was for: what becomes of the legs behind that is not its concern.
    fn is_complete(&self) -> bool {
        false
    }

    /// For how many bytes from this leg it has room; what it has not stays in the leg's socket.
    fn room(&self, _from: Leg) -> usize {
        usize::MAX
    }

    /// What becomes of the session when this leg has closed its sending side in order.
    fn at_end(&self, _leg: Leg) -> AtEnd {
        AtEnd::Over
    }

    /// Whether an answer is awaited: what comes is then acknowledged without delay.
    fn is_waiting(&self) -> bool {
        false
    }
}

/// What becomes of a session of which a leg sends no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtEnd {
    /// It ends, once what the leg has sent is written to the other.
    Over,
    /// What goes to the leg goes on, and the other hears nothing of it.
    GoesOn,
    /// What goes to the leg goes on, and the other is told, once it has what the leg has sent.
    PassedOn,
}

/// What a [`Filter`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// Nothing: the bytes go on.
    Verbatim,
    /// It wrote what goes on.
    Written,
}
