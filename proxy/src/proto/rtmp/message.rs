//! Messages and the protocol control messages among them (RTMP 1.0 sections 5.4 and 7.1).

/// Message type ids (RTMP 1.0 sections 5.4 and 7.1).
pub mod kind {
    /// Set Chunk Size.
    pub const SET_CHUNK_SIZE: u8 = 1;
    /// Abort Message.
    pub const ABORT: u8 = 2;
    /// Acknowledgement.
    pub const ACKNOWLEDGEMENT: u8 = 3;
    /// User Control.
    pub const USER_CONTROL: u8 = 4;
    /// Window Acknowledgement Size.
    pub const WINDOW_SIZE: u8 = 5;
    /// Set Peer Bandwidth.
    pub const PEER_BANDWIDTH: u8 = 6;
    /// Audio.
    pub const AUDIO: u8 = 8;
    /// Video.
    pub const VIDEO: u8 = 9;
    /// Data in AMF3.
    pub const DATA_AMF3: u8 = 15;
    /// Command in AMF3: one format byte, then AMF0.
    pub const COMMAND_AMF3: u8 = 17;
    /// Data in AMF0 (metadata).
    pub const DATA_AMF0: u8 = 18;
    /// Command in AMF0.
    pub const COMMAND_AMF0: u8 = 20;
    /// Aggregate of audio, video and data.
    pub const AGGREGATE: u8 = 22;
}

/// The chunk stream of protocol control messages (RTMP 1.0 section 5.4).
pub const CONTROL_CHUNK_STREAM: u32 = 2;

/// One whole message and the chunk stream it came by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Chunk stream id, 2 to 65599.
    pub chunk_stream: u32,
    /// Milliseconds, wrapping.
    pub timestamp: u32,
    /// Message type id.
    pub kind: u8,
    /// Message stream id; 0 is the connection itself.
    pub stream: u32,
    /// The body.
    pub payload: Vec<u8>,
}

impl Message {
    /// A protocol control message on the control chunk stream.
    fn control(kind: u8, payload: Vec<u8>) -> Self {
        Self { chunk_stream: CONTROL_CHUNK_STREAM, timestamp: 0, kind, stream: 0, payload }
    }

    /// Set Chunk Size (RTMP 1.0 section 5.4.1), bytes.
    pub fn set_chunk_size(bytes: u32) -> Self {
        Self::control(kind::SET_CHUNK_SIZE, bytes.to_be_bytes().into())
    }

    /// Acknowledgement (RTMP 1.0 section 5.4.3) of `received` bytes so far, wrapping.
    pub fn acknowledgement(received: u32) -> Self {
        Self::control(kind::ACKNOWLEDGEMENT, received.to_be_bytes().into())
    }

    /// Window Acknowledgement Size (RTMP 1.0 section 5.4.4), bytes.
    pub fn window_size(bytes: u32) -> Self {
        Self::control(kind::WINDOW_SIZE, bytes.to_be_bytes().into())
    }

    /// Set Peer Bandwidth (RTMP 1.0 section 5.4.5), bytes, dynamic.
    pub fn peer_bandwidth(bytes: u32) -> Self {
        let mut payload = bytes.to_be_bytes().to_vec();
        payload.push(2);
        Self::control(kind::PEER_BANDWIDTH, payload)
    }

    /// The first four bytes as a number: the value of every protocol control message but Abort's
    /// and User Control's, and of Abort its chunk stream id.
    pub fn control_value(&self) -> Option<u32> {
        self.payload.first_chunk().map(|four| u32::from_be_bytes(*four))
    }

    /// Whether this is a command, in either encoding.
    pub fn is_command(&self) -> bool {
        matches!(self.kind, kind::COMMAND_AMF0 | kind::COMMAND_AMF3)
    }

    /// Whether this is media or metadata.
    pub fn is_media(&self) -> bool {
        matches!(
            self.kind,
            kind::AUDIO | kind::VIDEO | kind::DATA_AMF0 | kind::DATA_AMF3 | kind::AGGREGATE
        )
    }
}

/// Rewrites the message stream id inside a User Control message, if its event carries one
/// (RTMP 1.0 section 7.1.7: Stream Begin, EOF, Dry, Set Buffer Length, Is Recorded; and Adobe's
/// Buffer Empty and Buffer Ready).
pub fn map_user_control_stream(payload: &mut [u8], map: impl FnOnce(u32) -> u32) {
    let Some((event, rest)) = payload.split_first_chunk_mut::<2>() else { return };
    if matches!(u16::from_be_bytes(*event), 0..=4 | 31 | 32)
        && let Some(id) = rest.first_chunk_mut::<4>()
    {
        *id = map(u32::from_be_bytes(*id)).to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_begin_is_mapped_and_a_ping_is_not() {
        let mut begin = vec![0, 0, 0, 0, 0, 1];
        map_user_control_stream(&mut begin, |id| id + 4);
        assert_eq!(begin, [0, 0, 0, 0, 0, 5]);
        let mut ping = vec![0, 6, 0, 0, 0, 1];
        map_user_control_stream(&mut ping, |id| id + 4);
        assert_eq!(ping, [0, 6, 0, 0, 0, 1]);
        map_user_control_stream(&mut [0, 0, 0], |_| unreachable!("too short for an id"));
    }
}
