//! File descriptors: each connection takes one, and so does everything else that the process opens.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that stay free for the database, listeners, operators' connections and files.
const RESERVE: usize = 160;

/// Fewest connections, whatever the limit.
const LEAST: usize = 16;

/// Largest limit that is asked for: beyond it the kernel refuses (`fs.nr_open`).
const MOST: u64 = 1_048_576;

/// Raises the soft limit of descriptors to the hard one. Returns the limit in force.
#[must_use]
pub fn raise_descriptor_limit() -> u64 {
    let found = getrlimit(Resource::Nofile);
    let before = found.current.unwrap_or(MOST);
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
            tracing::warn!(%error, limit = before, "could not raise the soft limit of file descriptors");
            before
        }
    }
}

/// Returns `limits.connections`, or fewer if the descriptors do not suffice for as many.
#[must_use]
pub fn affordable_connections(wanted: usize, limit: u64) -> usize {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let affordable = limit.saturating_sub(RESERVE).max(LEAST);
    if affordable < wanted {
        tracing::warn!(
            wanted,
            connections = affordable,
            limit,
            "limits.connections is capped by the limit of file descriptors (`ulimit -n`, LimitNOFILE)"
        );
    }
    wanted.min(affordable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_rest() {
        assert_eq!(affordable_connections(20_000, 1_048_576), 20_000);
        assert_eq!(affordable_connections(20_000, 20_000), 20_000 - RESERVE);
        assert_eq!(affordable_connections(20_000, 100), LEAST);
    }
}
