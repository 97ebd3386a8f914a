//! Who serves a stream.
