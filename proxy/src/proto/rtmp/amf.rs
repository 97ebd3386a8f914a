//! AMF0 values (Adobe AMF 0 specification, 2007), and the AMF3 scalars that AMF0 can switch to
//! (Adobe AMF 3 specification, 2013).

use thiserror::Error;

/// Objects inside objects, at most.
const MAX_DEPTH: usize = 16;

/// Values inside one value, at most. A byte of input can be a value, and a value in memory is many
/// bytes; the largest connect objects have some thirty.
const MAX_VALUES: usize = 1024;

/// AMF0 type markers (section 2.1).
mod marker {
    pub(super) const NUMBER: u8 = 0x00;
    pub(super) const BOOLEAN: u8 = 0x01;
    pub(super) const STRING: u8 = 0x02;
    pub(super) const OBJECT: u8 = 0x03;
    pub(super) const NULL: u8 = 0x05;
    pub(super) const UNDEFINED: u8 = 0x06;
    pub(super) const REFERENCE: u8 = 0x07;
    pub(super) const ECMA_ARRAY: u8 = 0x08;
    pub(super) const OBJECT_END: u8 = 0x09;
    pub(super) const STRICT_ARRAY: u8 = 0x0a;
    pub(super) const DATE: u8 = 0x0b;
    pub(super) const LONG_STRING: u8 = 0x0c;
    pub(super) const UNSUPPORTED: u8 = 0x0d;
    pub(super) const XML: u8 = 0x0f;
    pub(super) const TYPED_OBJECT: u8 = 0x10;
    pub(super) const AMF3: u8 = 0x11;
}

/// One value. What a proxy never looks into is kept as little as possible.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number, also out of an AMF3 integer.
    Number(f64),
    /// A boolean.
    Boolean(bool),
    /// A string of any kind; bytes that are no UTF-8 are replaced.
    String(String),
    /// An object or associative array, in the order of its members.
    Object(Vec<(String, Value)>),
    /// A dense array.
    Array(Vec<Value>),
    /// Milliseconds since 1970; the time zone is reserved and dropped.
    Date(f64),
    /// Null.
    Null,
    /// Undefined, unsupported, or a reference to an earlier object.
    Undefined,
}

/// Why a value could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AmfError {
    /// The bytes end inside the value.
    #[error("value is cut short")]
    Truncated,
    /// No such type.
    #[error("unknown type marker {0:#04x}")]
    Marker(u8),
    /// An AMF3 type with a table of its own, which no command a proxy reads has.
    #[error("AMF3 type {0:#04x} is not supported")]
    Amf3(u8),
    /// Deeper than 16 levels.
    #[error("values are nested too deeply")]
    TooDeep,
    /// More than 1024 values in one.
    #[error("too many values")]
    TooMany,
}

impl Value {
    /// Takes one value off the front of `input`.
    pub fn read(input: &mut &[u8]) -> Result<Self, AmfError> {
        let mut values = MAX_VALUES;
        read_value(input, &mut Room { depth: MAX_DEPTH, values: &mut values })
    }

    /// Appends the value to `out` as AMF0.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Number(number) => {
                out.push(marker::NUMBER);
                out.extend(number.to_be_bytes());
            }
            Self::Boolean(boolean) => out.extend([marker::BOOLEAN, u8::from(*boolean)]),
            Self::String(text) => write_string(text, out),
            Self::Object(members) => {
                out.push(marker::OBJECT);
                for (name, value) in members {
                    write_short_string(name, out);
                    value.write(out);
                }
                out.extend([0, 0, marker::OBJECT_END]);
            }
            Self::Array(values) => {
                out.push(marker::STRICT_ARRAY);
                out.extend(length32(values.len()));
                for value in values {
                    value.write(out);
                }
            }
            Self::Date(milliseconds) => {
                out.push(marker::DATE);
                out.extend(milliseconds.to_be_bytes());
                out.extend([0, 0]);
            }
            Self::Null => out.push(marker::NULL),
            Self::Undefined => out.push(marker::UNDEFINED),
        }
    }

    /// The text, if it is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if it is one.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The member of this name, if it is an object that has it.
    pub fn member(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => {
                members.iter().find(|(key, _)| key == name).map(|(_, value)| value)
            }
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

/// How much more a value may hold.
struct Room<'a> {
    depth: usize,
    /// Shared by all values inside one.
    values: &'a mut usize,
}

impl Room<'_> {
    /// Room inside a value, which itself takes some.
    fn enter(&mut self) -> Result<Room<'_>, AmfError> {
        let depth = self.depth.checked_sub(1).ok_or(AmfError::TooDeep)?;
        *self.values = self.values.checked_sub(1).ok_or(AmfError::TooMany)?;
        Ok(Room { depth, values: self.values })
    }
}

fn read_value(input: &mut &[u8], room: &mut Room<'_>) -> Result<Value, AmfError> {
    let mut inner = room.enter()?;
    Ok(match byte(input)? {
        marker::NUMBER => Value::Number(f64::from_be_bytes(array(input)?)),
        marker::BOOLEAN => Value::Boolean(byte(input)? != 0),
        marker::STRING => Value::String(short_string(input)?),
        marker::LONG_STRING | marker::XML => {
            let length = u32::from_be_bytes(array(input)?);
            Value::String(text(input, length as usize)?)
        }
        marker::OBJECT => Value::Object(members(input, &mut inner)?),
        marker::ECMA_ARRAY => {
            // The count is a hint (section 2.10); encoders write zero and end with a marker.
            array::<4>(input)?;
            Value::Object(members(input, &mut inner)?)
        }
        marker::TYPED_OBJECT => {
            short_string(input)?;
            Value::Object(members(input, &mut inner)?)
        }
        marker::STRICT_ARRAY => {
            let count = u32::from_be_bytes(array(input)?);
            // Every value takes a byte at least, so the loop is bounded by the input.
            let values = (0..count).map(|_| read_value(input, &mut inner));
            Value::Array(values.collect::<Result<_, _>>()?)
        }
        marker::DATE => {
            let milliseconds = f64::from_be_bytes(array(input)?);
            array::<2>(input)?;
            Value::Date(milliseconds)
        }
        marker::REFERENCE => {
            array::<2>(input)?;
            Value::Undefined
        }
        marker::NULL => Value::Null,
        marker::UNDEFINED | marker::UNSUPPORTED => Value::Undefined,
        marker::AMF3 => amf3(input)?,
        other => return Err(AmfError::Marker(other)),
    })
}

/// Members up to the empty name and the end marker (section 2.5).
fn members(input: &mut &[u8], room: &mut Room<'_>) -> Result<Vec<(String, Value)>, AmfError> {
    let mut members = Vec::new();
    loop {
        let name = short_string(input)?;
        if name.is_empty() && input.first() == Some(&marker::OBJECT_END) {
            byte(input)?;
            return Ok(members);
        }
        members.push((name, read_value(input, room)?));
    }
}

/// An AMF3 scalar (AMF 3 sections 3.2 to 3.8).
fn amf3(input: &mut &[u8]) -> Result<Value, AmfError> {
    Ok(match byte(input)? {
        0x00 => Value::Undefined,
        0x01 => Value::Null,
        0x02 => Value::Boolean(false),
        0x03 => Value::Boolean(true),
        0x04 => {
            // 29 bits, signed.
            let bits = u29(input)?;
            Value::Number(f64::from((bits << 3).cast_signed() >> 3))
        }
        0x05 => Value::Number(f64::from_be_bytes(array(input)?)),
        0x06 => {
            let head = u29(input)?;
            if head & 1 == 0 {
                // A reference into a string table that starts empty with each value.
                return Err(AmfError::Amf3(0x06));
            }
            Value::String(text(input, (head >> 1) as usize)?)
        }
        other => return Err(AmfError::Amf3(other)),
    })
}

/// AMF 3 section 1.3.1.
fn u29(input: &mut &[u8]) -> Result<u32, AmfError> {
    let mut value = 0;
    for _ in 0..3 {
        let next = u32::from(byte(input)?);
        value = value << 7 | next & 0x7f;
        if next & 0x80 == 0 {
            return Ok(value);
        }
    }
    Ok(value << 8 | u32::from(byte(input)?))
}

fn byte(input: &mut &[u8]) -> Result<u8, AmfError> {
    let (&first, rest) = input.split_first().ok_or(AmfError::Truncated)?;
    *input = rest;
    Ok(first)
}

fn array<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], AmfError> {
    let (first, rest) = input.split_first_chunk().ok_or(AmfError::Truncated)?;
    *input = rest;
    Ok(*first)
}

fn short_string(input: &mut &[u8]) -> Result<String, AmfError> {
    let length = u16::from_be_bytes(array(input)?);
    text(input, usize::from(length))
}

fn text(input: &mut &[u8], length: usize) -> Result<String, AmfError> {
    let (text, rest) = input.split_at_checked(length).ok_or(AmfError::Truncated)?;
    *input = rest;
    Ok(String::from_utf8_lossy(text).into_owned())
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    if u16::try_from(text.len()).is_ok() {
        out.push(marker::STRING);
        write_short_string(text, out);
    } else {
        out.push(marker::LONG_STRING);
        out.extend(length32(text.len()));
        out.extend(text.as_bytes());
    }
}

/// A name longer than its length field can say is cut: only our own names come here.
fn write_short_string(text: &str, out: &mut Vec<u8>) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend(length.to_be_bytes());
    out.extend(text.bytes().take(usize::from(length)));
}

fn length32(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i32>().prop_map(|n| Value::Number(f64::from(n) / 4.0)),
            any::<bool>().prop_map(Value::Boolean),
            ".{0,40}".prop_map(Value::String),
            any::<i32>().prop_map(|n| Value::Date(f64::from(n))),
            Just(Value::Null),
            Just(Value::Undefined),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                vec(("[a-z]{1,9}", inner.clone()), 0..6).prop_map(Value::Object),
                vec(inner, 0..6).prop_map(Value::Array),
            ]
        })
    }

    fn read(mut bytes: &[u8]) -> Result<Value, AmfError> {
        Value::read(&mut bytes)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again_and_every_prefix_is_cut_short(value in any_value()) {
            let mut bytes = Vec::new();
            value.write(&mut bytes);
            prop_assert_eq!(read(&bytes), Ok(value));
            for end in 0..bytes.len() {
                prop_assert_eq!(read(&bytes[..end]), Err(AmfError::Truncated));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..600)) {
            let _value = read(&bytes);
        }
    }

    #[test]
    fn objects_without_end_are_refused_at_a_bounded_depth() {
        let nested = [marker::OBJECT, 0, 1, b'a'].repeat(10_000);
        assert_eq!(read(&nested), Err(AmfError::TooDeep));
        let arrays = [marker::STRICT_ARRAY, 0xff, 0xff, 0xff, 0xff].repeat(10_000);
        assert_eq!(read(&arrays), Err(AmfError::TooDeep));
    }

    #[test]
    fn a_count_that_lies_costs_no_memory() {
        let array = [marker::STRICT_ARRAY, 0xff, 0xff, 0xff, 0xff, marker::NULL];
        assert_eq!(read(&array), Err(AmfError::Truncated));
        let text = [marker::LONG_STRING, 0xff, 0xff, 0xff, 0xff, b'a'];
        assert_eq!(read(&text), Err(AmfError::Truncated));
    }

    #[test]
    fn a_value_of_many_small_ones_is_refused_before_it_costs_memory() {
        let array = [&[marker::STRICT_ARRAY, 0, 0x10, 0, 0][..], &[marker::NULL; 4096]].concat();
        assert_eq!(read(&array), Err(AmfError::TooMany));
        let members = [&[marker::OBJECT][..], &[0, 1, b'a', marker::NULL].repeat(4096)].concat();
        assert_eq!(read(&members), Err(AmfError::TooMany));
    }

    #[test]
    fn amf3_scalars_are_read_behind_their_marker() {
        assert_eq!(read(&[0x11, 0x06, 0x09, b'l', b'i', b'v', b'e']), Ok("live".into()));
        assert_eq!(read(&[0x11, 0x04, 0x81, 0x00]), Ok(Value::Number(128.0)));
        assert_eq!(read(&[0x11, 0x04, 0xff, 0xff, 0xff, 0xff]), Ok(Value::Number(-1.0)));
        assert_eq!(read(&[0x11, 0x03]), Ok(Value::Boolean(true)));
        assert_eq!(read(&[0x11, 0x0a, 0x0b]), Err(AmfError::Amf3(0x0a)));
    }
}
