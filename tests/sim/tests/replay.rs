//! A seed determines a whole history, so a replay gives the same steps, even on a busy machine.

use std::process::Command;

fn trace(seed: u64) -> Result<String, std::io::Error> {
    let program = env!("CARGO_BIN_EXE_meshseal-sim");
    let seed = seed.to_string();
    let output = Command::new(program)
        .args(["--seed", &seed, "--histories", "1", "--trace"])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // Only lines of steps count: the last line has the run time.
    let steps: Vec<&str> = text.lines().filter(|line| line.contains(" s  ")).collect();
    Ok(steps.join("\n"))
}

#[test]
fn same_seed_makes_same_history() -> Result<(), std::io::Error> {
    for seed in 1..=6 {
        let first = trace(seed)?;
        assert!(
            first.lines().count() > 100,
            "seed {seed} has no history: {first}"
        );
        assert_eq!(first, trace(seed)?, "seed {seed}");
    }
    Ok(())
}
