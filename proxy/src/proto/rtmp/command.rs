//! Command messages (RTMP 1.0 section 7.2), and those that a server answers with.

use thiserror::Error;

use super::amf::{AmfError, Value};
use super::message::{Message, kind};

/// Chunk stream of our own command messages; the one that servers use for connection commands.
const COMMAND_CHUNK_STREAM: u32 = 3;

/// More arguments than any command has.
const MAX_ARGUMENTS: usize = 64;

/// A command: its name, transaction and arguments; the first argument is the command object.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// `connect`, `createStream`, `_result`, `onStatus` ...
    pub name: String,
    /// Zero where no answer is wanted.
    pub transaction: f64,
    /// Command object and further arguments.
    pub arguments: Vec<Value>,
}

/// A command message that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CommandError {
    /// A value is malformed.
    #[error(transparent)]
    Amf(#[from] AmfError),
    /// It does not begin with a name.
    #[error("command has no name")]
    NoName,
    /// Over 64 arguments.
    #[error("command has too many arguments")]
    TooManyArguments,
}

/// What an `onStatus` or `_error` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// `status`, `warning` or `error`.
    pub level: String,
    /// For example `NetStream.Publish.BadName`.
    pub code: String,
    /// For people.
    pub description: String,
}

impl Status {
    /// A refusal.
    pub fn error(code: &str, description: impl Into<String>) -> Self {
        Self { level: "error".into(), code: code.into(), description: description.into() }
    }

    /// Whether this answers publish or play: a refusal, or `NetStream.Publish.Start` and
    /// `NetStream.Play.Start`. Others (`NetStream.Play.Reset`, notices) come beside an answer.
    pub fn is_answer(&self) -> bool {
        self.is_error() || self.code.ends_with(".Start")
    }

    /// Whether the peer says no.
    pub fn is_error(&self) -> bool {
        self.level == "error"
    }

    fn to_value(&self) -> Value {
        Value::Object(vec![
            ("level".into(), self.level.as_str().into()),
            ("code".into(), self.code.as_str().into()),
            ("description".into(), self.description.as_str().into()),
        ])
    }
}

impl Command {
    /// Reads a command message of either encoding.
    pub fn parse(message: &Message) -> Result<Self, CommandError> {
        let mut input = message.payload.as_slice();
        // Type 17 begins with a format byte, zero for AMF0; nobody sends another, and servers
        // pass it over without a look.
        if message.kind == kind::COMMAND_AMF3 {
            input = match input.split_first() {
                Some((0, rest)) => rest,
                _ => return Err(CommandError::NoName),
            };
        }
        let Value::String(name) = Value::read(&mut input)? else {
            return Err(CommandError::NoName);
        };
        // RTMP 1.0 asks for a transaction; some onStatus come without.
        let transaction =
            if input.is_empty() { None } else { Value::read(&mut input)?.as_number() };
        let mut arguments = Vec::new();
        while !input.is_empty() {
            if arguments.len() == MAX_ARGUMENTS {
                return Err(CommandError::TooManyArguments);
            }
            match Value::read(&mut input) {
                Ok(value) => arguments.push(value),
                // The values up to here are good, and nobody needs those behind.
                Err(AmfError::Amf3(_)) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self { name, transaction: transaction.unwrap_or(0.0), arguments })
    }

    /// The command as an AMF0 message on message stream `stream`.
    pub fn to_message(&self, stream: u32) -> Message {
        let mut payload = Vec::new();
        Value::from(self.name.as_str()).write(&mut payload);
        Value::Number(self.transaction).write(&mut payload);
        for argument in &self.arguments {
            argument.write(&mut payload);
        }
        Message {
            chunk_stream: COMMAND_CHUNK_STREAM,
            timestamp: 0,
            kind: kind::COMMAND_AMF0,
            stream,
            payload,
        }
    }

    /// The text at `index` of the arguments.
    pub fn text(&self, index: usize) -> Option<&str> {
        self.arguments.get(index)?.as_str()
    }

    /// The number at `index` of the arguments.
    pub fn number(&self, index: usize) -> Option<f64> {
        self.arguments.get(index)?.as_number()
    }

    /// What an `onStatus`, `_result` or `_error` says: its first object with a code.
    pub fn status(&self) -> Option<Status> {
        self.arguments.iter().find_map(|argument| {
            let text = |name| Some(argument.member(name)?.as_str()?.to_owned());
            Some(Status {
                code: text("code")?,
                level: text("level").unwrap_or_default(),
                description: text("description").unwrap_or_default(),
            })
        })
    }

    /// `_result` of a connect (RTMP 1.0 section 7.2.1.1). Object encoding 0, whatever the client
    /// asked for: it then speaks AMF0, which every origin understands.
    pub fn connect_result(transaction: f64) -> Self {
        let properties = Value::Object(vec![
            ("fmsVer".into(), "FMS/3,5,3,888".into()),
            ("capabilities".into(), 127.0.into()),
            ("mode".into(), 1.0.into()),
        ]);
        let information = Value::Object(vec![
            ("level".into(), "status".into()),
            ("code".into(), "NetConnection.Connect.Success".into()),
            ("description".into(), "Connection succeeded".into()),
            ("objectEncoding".into(), 0.0.into()),
        ]);
        Self::result(transaction, vec![properties, information])
    }

    /// `_result` of a createStream (RTMP 1.0 section 7.2.1.3).
    pub fn create_stream_result(transaction: f64, stream: u32) -> Self {
        Self::result(transaction, vec![Value::Null, f64::from(stream).into()])
    }

    /// `_result` of a call whose value nobody reads.
    pub fn empty_result(transaction: f64) -> Self {
        Self::result(transaction, vec![Value::Null, Value::Undefined])
    }

    /// `_error` of a connect (RTMP 1.0 section 7.2.1.1).
    pub fn connect_error(transaction: f64, status: &Status) -> Self {
        Self { name: "_error".into(), transaction, arguments: vec![Value::Null, status.to_value()] }
    }

    /// `onStatus` (RTMP 1.0 section 7.2.2).
    pub fn on_status(status: &Status) -> Self {
        Self {
            name: "onStatus".into(),
            transaction: 0.0,
            arguments: vec![Value::Null, status.to_value()],
        }
    }

    fn result(transaction: f64, arguments: Vec<Value>) -> Self {
        Self { name: "_result".into(), transaction, arguments }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_read_as_it_was_written_in_both_encodings() {
        let command = Command {
            name: "publish".into(),
            transaction: 5.0,
            arguments: vec![Value::Null, "livestream?token=a".into(), "live".into()],
        };
        let message = command.to_message(1);
        assert_eq!(Command::parse(&message), Ok(command.clone()));
        let payload = [&[0], message.payload.as_slice()].concat();
        let flash = Message { kind: kind::COMMAND_AMF3, payload, ..message };
        assert_eq!(Command::parse(&flash), Ok(command.clone()));
        let without_format = Message { payload: flash.payload[1..].to_vec(), ..flash };
        assert!(Command::parse(&without_format).is_err(), "servers would skip its first byte");
        assert_eq!(command.text(1), Some("livestream?token=a"));
    }

    #[test]
    fn a_status_is_found_in_what_servers_send() {
        let status = Status::error("NetStream.Publish.BadName", "Already publishing");
        assert_eq!(Command::on_status(&status).status(), Some(status.clone()));
        assert_eq!(Command::connect_error(1.0, &status).status(), Some(status));
        assert_eq!(Command::empty_result(2.0).status(), None);
    }

    #[test]
    fn a_flood_of_arguments_and_a_nameless_command_are_refused() {
        let mut message = Command::empty_result(1.0).to_message(0);
        message.payload.extend([5; 100]);
        assert_eq!(Command::parse(&message), Err(CommandError::TooManyArguments));
        message.payload = vec![5];
        assert_eq!(Command::parse(&message), Err(CommandError::NoName));
    }
}
