//! What the client wants: one [`StreamKey`] for all spellings that SRS takes for one stream.

mod key;

pub use key::StreamKey;
