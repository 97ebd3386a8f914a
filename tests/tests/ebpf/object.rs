//! The object and its contract.

use std::collections::BTreeSet;
use std::env;

use anyhow::{Result, bail, ensure};
use aya::maps::Map;
use proxy_ebpf::contract::{CONTRACT, TC_UDP, XDP_UDP, contract_of};
use proxy_ebpf::maps;
use srs_proxy_tests::skip;

use crate::kernel::{Kernel, OBJECT_VARIABLE, built_object, cpus};

#[test]
fn the_object_keeps_the_contract() -> Result<()> {
    let Some((path, object)) = built_object()? else {
        return Ok(());
    };
    assert_eq!(contract_of(&object), Some(CONTRACT), "{} is of another contract", path.display());
    let Some(kernel) = Kernel::load(maps::DEFAULT_FLOWS as u32)? else {
        return Ok(());
    };
    let ours = kernel.ebpf.maps().filter(|(name, _)| name.starts_with("SRS_"));
    let mut found: Vec<_> = ours.map(as_contract).collect::<Result<_>>()?;
    found.sort();
    let mut agreed = maps::sizes(maps::DEFAULT_FLOWS as u32, cpus())
        .map(|map| (map.name.to_owned(), map.key_size, map.value_size, map.capacity));
    agreed.sort();
    assert_eq!(found, agreed, "maps as (name, key size, value size, capacity)");
    let programs: BTreeSet<_> = kernel.ebpf.programs().map(|(name, _)| name).collect();
    assert_eq!(programs, BTreeSet::from([XDP_UDP, TC_UDP]), "programs of the object");
    Ok(())
}

#[test]
fn the_proxy_carries_the_object_that_was_built() -> Result<()> {
    let Some((path, object)) = built_object()? else {
        return Ok(());
    };
    if env::var_os(OBJECT_VARIABLE).is_some() {
        skip(&format!("{OBJECT_VARIABLE} names an object that this build did not embed"))?;
        return Ok(());
    }
    ensure!(
        srs_proxy::plane::ebpf_object::OBJECT == Some(&object),
        "the proxy was built with another object than {}",
        path.display()
    );
    Ok(())
}

/// What the kernel says of a map: name, key size, value size, capacity.
fn as_contract((name, map): (&str, &Map)) -> Result<(String, u32, u32, u32)> {
    let (Map::PerCpuArray(data) | Map::Array(data) | Map::HashMap(data) | Map::DevMapHash(data)) =
        map
    else {
        bail!("{name} is of another kind")
    };
    let info = data.info()?;
    ensure!(info.name_as_str() == Some(name), "the kernel knows {name} by another name");
    Ok((name.to_owned(), info.key_size(), info.value_size(), info.max_entries()))
}
