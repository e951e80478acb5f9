//! Seeds and their mutations, in every test run. Fuzzing finds more; this keeps what it found.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::record::{BatchHeader, BatchReader, ProduceRules, check_produced};

/// Mutations of all seeds of one target.
const MUTATIONS: u64 = 1_500;

/// Largest input that mutations make, in bytes: debug builds are slow.
const INPUT_BYTES_MAX: usize = 4 << 10;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// Names and bytes of the seeds of a target, sorted.
fn seeds(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = folder().join("seeds").join(target.name);
    let mut seeds: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read(&path).unwrap())
        })
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{} has no seeds", target.name);
    seeds
}

/// Runs the target, and says which input it was if that fails.
fn hold(target: &Target, input: &[u8], which: &str) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err() {
        panic!("{} does not hold for {which}: {}", target.name, hex::encode(input));
    }
}

fn mutated(rng: &mut StdRng, seeds: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut input = seeds[rng.random_range(0..seeds.len())].1.clone();
    input.truncate(INPUT_BYTES_MAX);
    for _ in 0..rng.random_range(1..5) {
        let at = rng.random_range(0..=input.len());
        let end = rng.random_range(at..=input.len().min(at + 64));
        match rng.random_range(0..8) {
            0 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
            1 if at < input.len() => input[at] = [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
            2 => input.truncate(at),
            3 => drop(input.drain(at..end)),
            4 => {
                let copy = input[at..end].to_vec();
                input.splice(at..at, copy);
            }
            5 => {
                let other = &seeds[rng.random_range(0..seeds.len())].1;
                let from = rng.random_range(0..=other.len());
                let piece = &other[from..other.len().min(from + rng.random_range(0..64))];
                input.splice(at..end, piece.iter().copied());
            }
            // A length, in either order of bytes, of the kind that hurts.
            6 if at + 4 <= input.len() => {
                let near = u32::try_from(input.len()).unwrap();
                let lengths = [0, 1, near, near + 1, i32::MAX as u32, u32::MAX, 1 << 31, 1 << 16];
                let length = lengths[rng.random_range(0..lengths.len())];
                let swapped = if rng.random_bool(0.5) { length } else { length.swap_bytes() };
                input[at..at + 4].copy_from_slice(&swapped.to_be_bytes());
            }
            _ => input.insert(at, rng.random()),
        }
    }
    input.truncate(2 * INPUT_BYTES_MAX);
    input
}

#[test]
fn every_seed_and_its_mutations_hold() {
    for target in TARGETS {
        let seeds = seeds(target);
        hold(target, b"", "no bytes");
        for (name, bytes) in &seeds {
            hold(target, bytes, &format!("seed {name}"));
        }
        for number in 0..MUTATIONS {
            let mut rng = StdRng::seed_from_u64(number);
            let input = mutated(&mut rng, &seeds);
            hold(target, &input, &format!("mutation {number}"));
        }
    }
}

#[test]
fn the_requests_and_batches_of_real_clients_are_accepted() {
    for (name, frame) in seeds(&TARGETS[0]) {
        let accepted =
            kafka::accepted(&frame).map(|(call, body, left)| kafka::decode(call, body, left));
        assert_eq!(accepted, Some(true), "{name} does not reach its handler");
    }
    for (name, batch) in seeds(&TARGETS[1]) {
        let header = BatchHeader::parse(&batch).unwrap();
        let rules = ProduceRules {
            max_message_bytes: 1 << 20,
            log_append_time: false,
            timestamp_before_max_ms: 0,
            timestamp_after_max_ms: 60_000,
            now_ms: header.base_timestamp,
        };
        assert_eq!(check_produced(&batch, &rules), Ok(header), "{name}");
        let mut reader = BatchReader::new();
        let records: Vec<_> = reader.records(&batch).unwrap().collect();
        assert!(records.iter().all(Result::is_ok), "{name}");
        assert_eq!(records.len(), usize::try_from(header.record_count).unwrap(), "{name}");
    }
}

#[test]
fn every_target_has_a_file_and_a_binary_of_its_name() {
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names.len(), TARGETS.len());
    for (folder_name, suffix) in [("fuzz_targets", ".rs"), ("seeds", "")] {
        let found: BTreeSet<String> = fs::read_dir(folder().join(folder_name))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|name| name.strip_suffix(suffix).unwrap().to_owned())
            .collect();
        assert_eq!(found, names, "{folder_name}");
    }
    let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    for name in &names {
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "no binary {name}");
        let file = folder().join("fuzz_targets").join(format!("{name}.rs"));
        assert!(fs::read_to_string(file).unwrap().contains(&format!("\"{name}\"")), "{name}");
    }
}
