//! Programs of a few instructions, which stand around ours: one sends frames, one lets them end.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::Xdp;
use object::write::{Object, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
};

/// What a program of an XDP hook does with every frame.
pub(super) enum Script<'a> {
    /// Lets it end.
    Drop,
    /// Sends it from this interface.
    Redirect(u32),
    /// The same, once it begins with these bytes. What a hop has made of a frame is still in it when
    /// the test run uses its memory again.
    RedirectAs(u32, &'a [u8]),
}

impl Script<'_> {
    /// Loads it.
    pub(super) fn load(&self) -> Result<Ebpf> {
        let mut ebpf = Ebpf::load(&object(&self.instructions())?)?;
        program(&mut ebpf)?.load()?;
        Ok(ebpf)
    }

    fn instructions(&self) -> Vec<[u8; 8]> {
        match *self {
            Self::Drop => vec![set(R0, XDP_DROP), EXIT],
            Self::Redirect(interface) => redirect(interface).to_vec(),
            Self::RedirectAs(interface, front) => {
                let words: Vec<_> = front.as_chunks::<4>().0.iter().collect();
                let length = 4 * i16::try_from(words.len()).unwrap_or(0);
                let front = [
                    // r2 = data, r3 = data_end; a shorter frame is dropped.
                    encode(LOAD_WORD, R2, R1, 0, 0),
                    encode(LOAD_WORD, R3, R1, 4, 0),
                    encode(MOVE, R4, R2, 0, 0),
                    encode(ADD, R4, 0, 0, length.into()),
                    encode(SKIP_IF_NOT_ABOVE, R4, R3, 2, 0),
                    set(R0, XDP_DROP),
                    EXIT,
                ];
                let stores = (0..length).step_by(4).zip(words);
                let stores = stores.map(|(offset, word)| {
                    encode(STORE_WORD, R2, 0, offset, i32::from_le_bytes(*word))
                });
                front.into_iter().chain(stores).chain(redirect(interface)).collect()
            }
        }
    }
}

/// The one program of a script.
pub(super) fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    Ok(ebpf.program_mut(NAME).context("no script")?.try_into()?)
}

/// An object as a compiler makes it.
fn object(instructions: &[[u8; 8]]) -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let section = object.add_section(Vec::new(), b"xdp".to_vec(), SectionKind::Text);
    let code = instructions.as_flattened();
    let value = object.append_section_data(section, code, 8);
    object.add_symbol(Symbol {
        name: NAME.into(),
        value,
        size: code.len() as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    });
    Ok(object.write()?)
}

fn redirect(interface: u32) -> [[u8; 8]; 4] {
    [set(R1, interface.cast_signed()), set(R2, 0), encode(CALL, 0, 0, 0, BPF_REDIRECT), EXIT]
}

const fn set(register: u8, value: i32) -> [u8; 8] {
    encode(SET, register, 0, 0, value)
}

/// RFC 9669 3, for little-endian machines.
const fn encode(code: u8, to: u8, from: u8, offset: i16, value: i32) -> [u8; 8] {
    let [offset_0, offset_1] = offset.to_le_bytes();
    let [value_0, value_1, value_2, value_3] = value.to_le_bytes();
    [code, from << 4 | to, offset_0, offset_1, value_0, value_1, value_2, value_3]
}

const NAME: &str = "script";
const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const R4: u8 = 4;
// RFC 9669 4.1, 4.3 and 5: class, operation and source in one byte.
const SET: u8 = 0xb7;
const MOVE: u8 = 0xbf;
const ADD: u8 = 0x07;
const LOAD_WORD: u8 = 0x61;
const STORE_WORD: u8 = 0x62;
const SKIP_IF_NOT_ABOVE: u8 = 0xbd;
const CALL: u8 = 0x85;
const EXIT: [u8; 8] = encode(0x95, 0, 0, 0, 0);
/// `enum bpf_func_id` of linux/bpf.h.
const BPF_REDIRECT: i32 = 23;
/// `enum xdp_action` of linux/bpf.h.
const XDP_DROP: i32 = 1;
