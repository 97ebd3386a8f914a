//! Where packets to somebody leave this host: its next hop.
