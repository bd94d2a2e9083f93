//! The page in a real browser. What it must do stands in `.ci/browser`, which needs one, its driver, and root.

use std::{
    io::{self, Write},
    process::Command,
};

fn prints(program: &str, argument: &str) -> Option<Vec<u8>> {
    Command::new(program)
        .arg(argument)
        .output()
        .ok()
        .map(|output| output.stdout)
}

#[test]
fn a_browser_that_opens_the_url_finds_a_live_client() {
    if prints("chromedriver", "--version").is_none()
        || prints("id", "-u").is_none_or(|id| id != b"0\n")
    {
        // Past the test harness, which shows only what fails.
        let _ = writeln!(
            io::stderr(),
            "left out: the page in a browser, which needs chromedriver and root"
        );
        return;
    }
    let browser = concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/browser");
    let tried = Command::new(browser)
        .arg(env!("CARGO_BIN_EXE_wspush"))
        .status();
    assert!(tried.is_ok_and(|status| status.success()));
}
