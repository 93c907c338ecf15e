//! File descriptor limits. Each connection takes one descriptor, as does every file or socket that
//! the process opens.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are reserved for the database, listeners, operators' connections and files.
const RESERVE: usize = 160;

/// Least number of connections, however low the limit is.
const LEAST: usize = 16;

/// Largest limit that is requested. The kernel rejects larger ones (`fs.nr_open`).
const MOST: u64 = 1_048_576;

/// Raises the soft limit of file descriptors to the hard limit. Returns the limit in effect.
#[must_use]
pub fn raise_descriptor_limit() -> u64 {
    let found = getrlimit(Resource::Nofile);
    let before = found.current.unwrap_or(MOST);
    // Never lower a soft limit that is above MOST already.
    let wanted = found.maximum.unwrap_or(MOST).min(MOST).max(before);
    if wanted == before {
        return before;
    }
    match setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(wanted),
            maximum: found.maximum,
        },
    ) {
        Ok(()) => {
            tracing::info!(
                before,
                limit = wanted,
                "raised the soft limit of file descriptors"
            );
            wanted
        }
        Err(error) => {
            tracing::warn!(
                %error,
                limit = before,
                "could not raise the soft limit of file descriptors"
            );
            before
        }
    }
}

/// Returns the number of connections to allow: `wanted`, capped by the descriptor limit.
#[must_use]
pub fn affordable_connections(wanted: usize, limit: u64) -> usize {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let affordable = limit.saturating_sub(RESERVE).max(LEAST);
    if affordable < wanted {
        tracing::warn!(
            wanted,
            connections = affordable,
            limit,
            "limits.connections is capped by the limit of file descriptors; raise `ulimit -n` or \
             LimitNOFILE"
        );
    }
    wanted.min(affordable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_reserved_descriptors() {
        assert_eq!(affordable_connections(20_000, 1_048_576), 20_000);
        assert_eq!(affordable_connections(20_000, 20_000), 20_000 - RESERVE);
        assert_eq!(affordable_connections(20_000, 100), LEAST);
    }
}
