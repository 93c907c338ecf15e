//! Numbers of the writes of worker records, by which a replica notices that the database lost some
//! (ADR 19).

use aws_lc_rs::rand;
use sqlx::{AnyConnection, Error, Row as _};

use super::statement::query;

/// Numbers that the state row keeps. A replica that is further behind cannot notice a loss.
const KEPT: usize = 256;

/// Latest numbers, oldest first. They rise by random steps, so that writes after a loss get other
/// numbers than the lost ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Records(Vec<u64>);

impl Records {
    /// Parses the form that [`Records::text`] writes. Words that are not numbers are skipped.
    pub(super) fn parse(text: &str) -> Self {
        Self(
            text.split_ascii_whitespace()
                .filter_map(|number| number.parse().ok())
                .collect(),
        )
    }

    fn text(&self) -> String {
        let numbers: Vec<String> = self.0.iter().map(u64::to_string).collect();
        numbers.join(" ")
    }

    /// Returns the latest number; 0 before the first write.
    pub(super) fn latest(&self) -> u64 {
        self.0.last().copied().unwrap_or(0)
    }

    /// Returns whether a seen write is part of this history; 0 means that no write was seen. A
    /// write older than a full list counts as part of it.
    pub(super) fn include(&self, seen: u64) -> bool {
        seen == 0
            || self.0.contains(&seen)
            || (self.0.len() >= KEPT && self.0.first() > Some(&seen))
    }

    fn add(&mut self, number: u64) {
        self.0.push(number);
        self.0.sort_unstable();
        self.0.dedup();
        let surplus = self.0.len().saturating_sub(KEPT);
        self.0.drain(..surplus);
    }

    /// Adds the number of a new write.
    fn next(&mut self) {
        let mut random = [0; 4];
        // Without random bytes all steps are equal, and a loss may go unnoticed.
        let _equal = rand::fill(&mut random);
        // 20 random bits: two branches rarely agree, and the numbers do not run out.
        let step = u64::from(u32::from_le_bytes(random) >> 12);
        self.add(self.latest().saturating_add(1).saturating_add(step));
    }
}

/// Numbers a write of worker records in this transaction, and takes the lock that orders all
/// changes. Returns the earlier numbers and the new one.
pub(super) async fn number_write(transaction: &mut AnyConnection) -> Result<(Records, u64), Error> {
    let before = lock(transaction).await?;
    let mut after = before.clone();
    after.next();
    save(transaction, &after).await?;
    Ok((before, after.latest()))
}

/// Makes a seen but lost write part of the history.
pub(super) async fn merge(transaction: &mut AnyConnection, seen: u64) -> Result<(), Error> {
    let mut records = lock(transaction).await?;
    if seen > 0 {
        records.add(seen);
    }
    records.next();
    save(transaction, &records).await
}

async fn lock(transaction: &mut AnyConnection) -> Result<Records, Error> {
    let sql = "UPDATE meshseal_state SET version = version WHERE id = 2 RETURNING records";
    let text: String = query(sql).fetch_one(transaction).await?.try_get(0)?;
    Ok(Records::parse(&text))
}

async fn save(transaction: &mut AnyConnection, records: &Records) -> Result<(), Error> {
    let update = query("UPDATE meshseal_state SET records = $1 WHERE id = 2").bind(records.text());
    update.execute(transaction).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_excludes_lost_write() {
        let mut history = Records::default();
        assert!(
            history.include(0) && !history.include(7),
            "nothing was written"
        );
        history.next();
        let copy = history.clone();
        history.next();
        let seen = history.latest();
        assert!(history.include(seen) && Records::parse(&history.text()) == history);
        assert!(
            !Records::parse(&(seen + 1).to_string()).include(seen),
            "the first write was lost"
        );
        // The other branch continues past the lost number.
        let mut branch = copy;
        for _ in 0..10 {
            branch.next();
            assert!(!branch.include(seen), "{branch:?} {seen}");
        }
        branch.add(seen);
        assert!(branch.include(seen));
        (0..KEPT).for_each(|_| branch.next());
        assert!(
            branch.0.len() == KEPT && branch.include(seen),
            "too old to tell"
        );
    }
}
