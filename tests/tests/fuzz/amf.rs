//! AMF values and the commands made of them.

use bolero::check;
use srs_proxy::proto::rtmp::amf::{AmfError, Value};
use srs_proxy::proto::rtmp::command::Command;
use srs_proxy::proto::rtmp::message::{Message, kind};

use crate::{RANDOM, corpus};

/// What one value may be made of, and what it may cost: neither grows with the message.
const MOST_VALUES: usize = 1024;
const DEEPEST: usize = 16;

#[test]
fn value() {
    check!().with_iterations(RANDOM).for_each(|input: &[u8]| {
        let mut rest = input;
        let Ok(value) = Value::read(&mut rest) else { return };
        assert!(input.ends_with(rest), "what is left is not the end of the input");
        let (count, depth) = measure(&value);
        assert!(count <= MOST_VALUES && depth <= DEEPEST, "{count} values, {depth} deep");
        assert_eq!(written(&again(&value)), written(&value), "{value:?} is another when read back");
    });
}

#[test]
fn command() {
    check!().with_iterations(RANDOM).for_each(|payload: &[u8]| {
        for kind in [kind::COMMAND_AMF0, kind::COMMAND_AMF3] {
            let payload = payload.to_vec();
            let message = Message { chunk_stream: 3, timestamp: 0, kind, stream: 0, payload };
            let Ok(command) = Command::parse(&message) else { continue };
            assert!(command.arguments.len() <= 64, "{} arguments", command.arguments.len());
            // Questions that every machine asks of a command.
            let _ = (command.status(), command.text(1), command.number(1));
            let message = command.to_message(1);
            let again = Command::parse(&message).expect("a command that we wrote");
            assert_eq!(again.to_message(1), message, "{command:?} is another when read back");
        }
    });
}

#[test]
fn every_prefix_of_a_value_is_cut_short() {
    for (name, input) in corpus::of("amf__value") {
        let mut rest = input.as_slice();
        if Value::read(&mut rest).is_err() {
            continue;
        }
        for end in 0..input.len() - rest.len() {
            let part = Value::read(&mut &input[..end]);
            assert_eq!(part, Err(AmfError::Truncated), "{name}, the first {end} bytes");
        }
    }
}

#[test]
fn every_prefix_of_a_command_is_read_or_refused() {
    for (_, payload) in corpus::of("amf__command") {
        for end in 0..payload.len() {
            let payload = payload[..end].to_vec();
            let kind = kind::COMMAND_AMF0;
            let _ = Command::parse(&Message {
                chunk_stream: 3,
                timestamp: 0,
                kind,
                stream: 0,
                payload,
            });
        }
    }
}

/// How many values there are, and how deep they are nested.
fn measure(value: &Value) -> (usize, usize) {
    let inner: Vec<(usize, usize)> = match value {
        Value::Object(members) => members.iter().map(|(_, value)| measure(value)).collect(),
        Value::Array(values) => values.iter().map(measure).collect(),
        _ => Vec::new(),
    };
    let count = 1 + inner.iter().map(|(count, _)| count).sum::<usize>();
    (count, 1 + inner.iter().map(|(_, depth)| *depth).max().unwrap_or(0))
}

fn written(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.write(&mut bytes);
    bytes
}

fn again(value: &Value) -> Value {
    let bytes = written(value);
    let mut rest = bytes.as_slice();
    let again = Value::read(&mut rest).expect("a value that we wrote");
    assert!(rest.is_empty(), "{} bytes behind {value:?}", rest.len());
    again
}
