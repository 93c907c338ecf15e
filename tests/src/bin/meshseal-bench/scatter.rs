//! Random token indices.

use std::collections::BTreeSet;

use anyhow::Result;

/// Returns `count` different random indices below `end`.
pub(crate) fn indices(count: u64, end: u64) -> Result<BTreeSet<u64>> {
    let mut chosen = BTreeSet::new();
    while u64::try_from(chosen.len())? < count {
        let mut bytes = [0; 8];
        aws_lc_rs::rand::fill(&mut bytes)?;
        chosen.insert(u64::from_le_bytes(bytes) % end);
    }
    Ok(chosen)
}
