//! `cargo xtask verify-ebpf`: whether two builds of the kernel programs are equal, and what this
//! machine's verifier makes of them.

use anyhow::Result;

use crate::build_ebpf;

/// Builds the object if it is not up to date, and once more to compare; loads each program and
/// prints what it costs.
pub(crate) fn verify() -> Result<()> {
    let built = build_ebpf::build()?;
    build_ebpf::build_again(&built)?;
    #[cfg(target_os = "linux")]
    return linux::print_costs(&built.object);
    #[cfg(not(target_os = "linux"))]
    anyhow::bail!("{} was built; only Linux can load it", built.object.display());
}

#[cfg(target_os = "linux")]
mod linux {
    use std::path::Path;
    use std::time::Instant;

    use anyhow::{Context, Result, bail};
    use aya::EbpfLoader;
    use aya::programs::{Program, ProgramInfo};

    /// Loads the programs of `object`, attaches none, and prints a line for each.
    pub(super) fn print_costs(object: &Path) -> Result<()> {
        let mut ebpf = EbpfLoader::new()
            // As the daemon loads it: what it does not ask for is not in the programs.
            .override_global(aya_log::LEVEL, &0_u8, true)
            .load_file(object)
            .with_context(|| format!("loading {}", object.display()))?;
        println!("{HEAD}");
        for (name, program) in ebpf.programs_mut() {
            let start = Instant::now();
            let loaded = match program {
                Program::Xdp(xdp) => xdp.load(),
                Program::SchedClassifier(tc) => tc.load(),
                _ => bail!("{name} is of a kind that is not expected here"),
            };
            loaded.with_context(|| format!("the verifier refused {name}"))?;
            let micros = start.elapsed().as_micros();
            println!("{}", line(name, &program.info()?, micros));
        }
        Ok(())
    }

    fn line(name: &str, info: &ProgramInfo, micros: u128) -> String {
        let number = |number: Option<u32>| number.map_or("?".to_owned(), |n| n.to_string());
        let instructions = number(info.size_translated().map(|bytes| bytes / INSTRUCTION));
        let verified = number(info.verified_instruction_count());
        let jitted = info.size_jitted();
        format!("| {name} | {instructions} | {verified} | {micros} | {jitted} |")
    }

    /// What the verifier has walked counts each path; the time is that of the whole load.
    const HEAD: &str = "| program | instructions | verified | verifier, µs | machine code, bytes |\n\
                        |---|---|---|---|---|";
    /// Bytes of one instruction (RFC 9669 3).
    const INSTRUCTION: u32 = 8;
}
