//! The contract, tested. `README.md` beside this file has its tables, and the tests that hold each row.

mod common;
mod model;

mod closing;
mod conversation;
mod handshake;
mod lines;
mod pressure;
mod properties;
mod starting;
mod stopping;

use std::{collections::BTreeSet, fs, path::Path};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Adds the names of the tests in a source file, or in all of a folder and below.
fn collect_tests(path: &Path, tests: &mut BTreeSet<String>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            collect_tests(&entry.unwrap().path(), tests);
        }
        return;
    }
    let source = fs::read_to_string(path).unwrap_or_default();
    let is_unit = path.starts_with(root().join("src"));
    let module = if is_unit {
        "src".as_ref()
    } else {
        path.file_stem().unwrap()
    };
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
        let function = line.trim_start_matches("async ").strip_prefix("fn ");
        if let Some((name, _)) = function.and_then(|function| function.split_once('(')) {
            if is_test {
                tests.insert(format!("{}::{name}", module.display()));
            }
            is_test = false;
        }
    }
}

/// What stands in backticks in the last column of a row of the tables, but for their heads.
fn named_in(row: &str) -> Vec<&str> {
    let cells: Vec<_> = row.trim_matches('|').split(" | ").collect();
    let parts = cells.last().unwrap().split('`');
    parts.skip(1).step_by(2).collect()
}

#[test]
fn each_row_of_the_contract_names_tests_that_exist() {
    let mut tests = BTreeSet::new();
    for folder in ["src", "tests/contract"] {
        collect_tests(&root().join(folder), &mut tests);
    }
    let contract = include_str!("README.md");
    let exists = |name: &str| {
        tests.contains(name) || name.starts_with(".ci/") && root().join(name).is_file()
    };
    let mut rows = 0;
    for row in contract.lines().filter(|line| line.starts_with('|')) {
        if row.ends_with("| held by |") || row.ends_with("| --- |") {
            continue;
        }
        let named = named_in(row);
        assert!(!named.is_empty(), "no test is named in {row}");
        for name in named {
            assert!(exists(name), "there is no {name}, named in {row}");
        }
        rows += 1;
    }
    assert!(rows > 60, "only {rows} rows are found");
}
