//! Ports on the loopback interface.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};

/// Returns the address `127.0.0.1:port`.
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Returns a port without a listener that this function has not returned before. It is for servers
/// that cannot report their port, or that must come back on the same one.
///
/// # Errors
/// Fails if no port is free.
pub fn free() -> Result<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = TcpListener::bind(loopback(0)).context("no free port on 127.0.0.1")?;
        let port = listener.local_addr()?.port();
        if GIVEN
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(port)
        {
            return Ok(port);
        }
    }
}

/// Returns true if a process listens on the port already.
pub fn is_busy(port: u16) -> bool {
    TcpListener::bind(loopback(port)).is_err()
}
