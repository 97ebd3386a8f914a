//! A flow in the maps, of which nothing comes.

use proxy_ebpf::maps::{Key, TO_ORIGIN, Way};

/// By what it would be found.
pub(crate) const KEY: Key = Key {
    source: [1; 16],
    destination: [2; 16],
    source_port: [3; 2],
    destination_port: [4; 2],
    socket_id: [0; 4],
};

/// Its way.
pub(crate) const WAY: Way = Way {
    source: [5; 16],
    destination: [6; 16],
    source_port: [7; 2],
    destination_port: [8; 2],
    destination_mac: [9; 6],
    source_mac: [10; 6],
    vlan: [0; 2],
    addresses_delta: 11,
    ports_delta: 12,
    mtu: 1500,
    from_vlan: [0; 2],
    reserved: [0; 2],
    from_interface: 1,
    flags: Way::HELD,
    interface: 1,
    slot: 3,
    leg: TO_ORIGIN,
    generation: 13,
};
