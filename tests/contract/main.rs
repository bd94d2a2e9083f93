//! Tests of the contract. `README.md` in this folder has its tables, and names the tests of each row.

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

/// Adds the names of the tests in a source file, or in a folder and its subfolders.
fn collect_tests(path: &Path, tests: &mut BTreeSet<String>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            collect_tests(&entry.unwrap().path(), tests);
        }
        return;
    }
    let source = fs::read_to_string(path).unwrap_or_default();
    let module = module(path);
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
        let function = line.trim_start_matches("async ").strip_prefix("fn ");
        if let Some((name, _)) = function.and_then(|function| function.split_once('(')) {
            if is_test {
                tests.insert(format!("{module}::{name}"));
            }
            is_test = false;
        }
    }
}

/// The module of a contract test, as `cargo test` prints it, or `src` for a unit test.
fn module(path: &Path) -> String {
    match path.strip_prefix(root().join("tests/contract")) {
        Ok(path) => path.with_extension("").to_str().unwrap().replace('/', "::"),
        Err(_) => "src".into(),
    }
}

/// The names in backticks in the last column of a table's row.
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
    let (mut rows, mut missing) = (0, Vec::new());
    for row in contract.lines().filter(|line| line.starts_with('|')) {
        if row.ends_with("| held by |") || row.ends_with("| --- |") {
            continue;
        }
        let named = named_in(row);
        assert!(!named.is_empty(), "no test in {row}");
        missing.extend(named.into_iter().filter(|name| !exists(name)));
        rows += 1;
    }
    assert_eq!(missing, [""; 0]);
    assert!(rows > 60, "only {rows} rows");
}
