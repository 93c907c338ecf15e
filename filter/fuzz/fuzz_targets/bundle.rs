//! Reads any text as the content of a bundle, without the signature, and applies it to nothing and
//! to itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meshseal_core::bundle::{Payload, Snapshot, Times};
use meshseal_core::revocation::IndexSet;

fuzz_target!(|bytes: &[u8]| {
    if let Some(set) = IndexSet::decode(bytes) {
        assert_eq!(set.encode(), bytes);
    }
    let Ok(payload) = Payload::from_json(bytes.to_vec()) else {
        return;
    };
    let Ok(snapshot) = Snapshot::default().apply(&payload) else {
        return;
    };
    let times = Times {
        issuer: payload.iss.clone(),
        issued_at: payload.iat,
        not_after: payload.exp,
    };
    let heartbeat = snapshot.delta_from(&snapshot, times.clone());
    assert_eq!(snapshot.apply(&heartbeat).expect("a heartbeat"), snapshot);
    assert_eq!(
        Snapshot::default()
            .apply(&snapshot.full(times))
            .expect("a full bundle"),
        snapshot
    );
});
