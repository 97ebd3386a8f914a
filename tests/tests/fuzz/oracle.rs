//! Another implementation of RTMP reads what we write, and we read what it writes.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use rml_amf0::Amf0Value;
use rml_rtmp::chunk_io::{ChunkDeserializer, ChunkSerializer};
use rml_rtmp::messages::MessagePayload;
use rml_rtmp::time::RtmpTimestamp;
use srs_proxy::proto::rtmp::amf::Value;
use srs_proxy::proto::rtmp::chunk::{
    ChunkEvent, ChunkLimits, ChunkReader, ChunkWriter, DEFAULT_CHUNK_SIZE,
};
use srs_proxy::proto::rtmp::message::{Message, kind};

use crate::split::pieces;

const LIMITS: ChunkLimits = ChunkLimits { message_bytes: 1 << 20, chunk_streams: 64 };

proptest! {
    #[test]
    fn the_oracle_reads_our_chunks(messages in messages(), chunk_size in 1..3000u32) {
        let mut writer = ChunkWriter::new(DEFAULT_CHUNK_SIZE);
        let mut bytes = Vec::new();
        writer.write(&Message::set_chunk_size(chunk_size), &mut bytes);
        for message in &messages {
            writer.write(message, &mut bytes);
        }
        let mut oracle = ChunkDeserializer::new();
        let read = |payload: MessagePayload| {
            let MessagePayload { timestamp, type_id, message_stream_id, data } = payload;
            (timestamp.value, type_id, message_stream_id, data.to_vec())
        };
        let first = oracle.get_next_message(&bytes).unwrap().map(read);
        let size = chunk_size.to_be_bytes().to_vec();
        prop_assert_eq!(first, Some((0, kind::SET_CHUNK_SIZE, 0, size)));
        oracle.set_max_chunk_size(chunk_size as usize).unwrap();
        for message in messages {
            let Message { timestamp, kind, stream, payload, .. } = message;
            let heard = oracle.get_next_message(&[]).unwrap().map(read);
            prop_assert_eq!(heard, Some((timestamp, kind, stream, payload)));
        }
        prop_assert_eq!(oracle.get_next_message(&[]).unwrap(), None);
    }

    /// The oracle compresses headers in all four ways.
    #[test]
    fn we_read_the_oracle_s_chunks(messages in messages(), chunk_size in 1..3000u32) {
        let mut oracle = ChunkSerializer::new();
        let mut bytes = oracle.set_max_chunk_size(chunk_size, RtmpTimestamp::new(0)).unwrap().bytes;
        for message in &messages {
            let said = MessagePayload {
                timestamp: RtmpTimestamp::new(message.timestamp),
                type_id: message.kind,
                message_stream_id: message.stream,
                data: message.payload.clone().into(),
            };
            bytes.extend(oracle.serialize(&said, false, false).unwrap().bytes);
        }
        let mut reader = ChunkReader::new(LIMITS);
        let mut held = Vec::new();
        let mut heard = Vec::new();
        for piece in pieces(&bytes) {
            held.extend_from_slice(piece);
            let mut input = held.as_slice();
            while let Some(event) = reader.read(&mut input)? {
                if let ChunkEvent::Message(message) = event {
                    heard.push(message);
                }
            }
            held = input.to_vec();
        }
        prop_assert_eq!(heard.remove(0), Message::set_chunk_size(chunk_size));
        // The oracle chooses the chunk streams.
        let but_chunk_stream = |message: Message| Message { chunk_stream: 0, ..message };
        let heard: Vec<_> = heard.into_iter().map(but_chunk_stream).collect();
        let said: Vec<_> = messages.into_iter().map(but_chunk_stream).collect();
        prop_assert_eq!(heard, said);
    }

    #[test]
    fn the_oracle_reads_our_values(values in vec(value(), 0..6)) {
        let mut bytes = Vec::new();
        for value in &values {
            value.write(&mut bytes);
        }
        let read = rml_amf0::deserialize(&mut bytes.as_slice()).unwrap();
        prop_assert_eq!(read, values.iter().map(to_oracle).collect::<Vec<_>>());
    }

    #[test]
    fn we_read_the_oracle_s_values(values in vec(value(), 0..6)) {
        let said = values.iter().map(to_oracle).collect();
        let bytes = rml_amf0::serialize(&said).unwrap();
        let mut rest = bytes.as_slice();
        let mut read = Vec::new();
        while !rest.is_empty() {
            read.push(to_oracle(&Value::read(&mut rest)?));
        }
        prop_assert_eq!(read, said);
    }
}

/// Messages as a session has them: times that go on, jump, and go back, on few streams.
fn messages() -> impl Strategy<Value = Vec<Message>> {
    let time = prop_oneof![
        4 => 0..5000u32,
        1 => 0x00ff_fff0..0x0100_0010u32,
        1 => any::<u32>(),
    ];
    let kind = prop_oneof![Just(kind::AUDIO), Just(kind::VIDEO), Just(kind::DATA_AMF0)];
    let chunk_stream = prop_oneof![3..=63u32, 64..=319u32, 320..=65599u32];
    // The oracle writes nothing at all for a message without a payload.
    let payload = prop_oneof![vec(any::<u8>(), 1..4), vec(any::<u8>(), 1..700)];
    let message = (chunk_stream, time, kind, 0..3u32, payload);
    let message = message.prop_map(|(chunk_stream, timestamp, kind, stream, payload)| Message {
        chunk_stream,
        timestamp,
        kind,
        stream,
        payload,
    });
    vec(message, 1..12)
}

/// Values that both know: the oracle has no dates, long strings or members of equal names.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<i32>().prop_map(|n| Value::Number(f64::from(n) / 8.0)),
        any::<bool>().prop_map(Value::Boolean),
        ".{0,300}".prop_map(Value::String),
        Just(Value::Null),
        Just(Value::Undefined),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let members = btree_map("[a-z]{1,9}", inner.clone(), 0..6);
        prop_oneof![
            members.prop_map(|members| Value::Object(members.into_iter().collect())),
            vec(inner, 0..6).prop_map(Value::Array),
        ]
    })
}

fn to_oracle(value: &Value) -> Amf0Value {
    match value {
        Value::Number(number) => Amf0Value::Number(*number),
        Value::Boolean(boolean) => Amf0Value::Boolean(*boolean),
        Value::String(text) => Amf0Value::Utf8String(text.clone()),
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| (name.clone(), to_oracle(value)));
            Amf0Value::Object(members.collect())
        }
        Value::Array(values) => Amf0Value::StrictArray(values.iter().map(to_oracle).collect()),
        Value::Null => Amf0Value::Null,
        Value::Undefined | Value::Date(_) => Amf0Value::Undefined,
    }
}
