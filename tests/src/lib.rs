//! The rig: real peers and scripted doubles around a running proxy.
