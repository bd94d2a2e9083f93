//! The page in a real browser. What it must do there stands in `.ci/browser`.

use std::process::Command;

#[test]
#[ignore = "left out: it needs chromium, its driver and root, and .ci/run does it with .ci/browser"]
fn a_browser_that_opens_the_url_finds_a_live_client() {
    let browser = concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/browser");
    let tried = Command::new(browser)
        .arg(env!("CARGO_BIN_EXE_wspush"))
        .status();
    assert!(tried.is_ok_and(|status| status.success()));
}
