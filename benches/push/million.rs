//! Very many connections to several servers, held for a while.

use std::{ffi::OsString, fs, time::Instant};

use crate::{
    Result,
    fleet::Fleet,
    load::Load,
    server::memory,
    table::{count, digits},
};

/// Memory that a connection needs, in bytes: both ends, in the processes and in the kernel, with some to spare.
const MEMORY: usize = 15_000;

/// Descriptors that a server or its clients may need besides the connections.
const OWN_DESCRIPTORS: usize = 256;

const MEMINFO: &str = "/proc/meminfo";

/// Opens and holds the connections, and prints the figures.
pub(crate) fn hold(
    servers: usize,
    load: &Load,
    program: &[OsString],
    deadline: Instant,
) -> Result<()> {
    let before = memory(MEMINFO, "Slab:")?;
    let fleet = Fleet::start(servers, load, program, deadline)?;
    let kernel = memory(MEMINFO, "Slab:")?.saturating_sub(before);
    let figures = fleet.measure(load)?;
    println!("{servers} servers, {}", load.title(servers));
    for ((name, _), &figure) in load.rows().iter().zip(&figures) {
        println!("  {name:36} {:>10}", digits(figure));
    }
    let kernel = count(kernel) / count(servers * load.connections);
    println!(
        "  {:36} {:>10}",
        "  in the kernel, both ends",
        digits(kernel)
    );
    Ok(())
}

/// Prints what the connections need, and fails if the machine has less.
pub(crate) fn check(servers: usize, load: &Load, descriptors: u64) -> Result<()> {
    let connections = load.connections;
    let process = connections + OWN_DESCRIPTORS;
    let ports = numbers("/proc/sys/net/ipv4/ip_local_port_range")?;
    let files = numbers("/proc/sys/fs/file-nr")?;
    let needs = [
        (
            "MiB of memory",
            (servers * connections * MEMORY) >> 20,
            memory(MEMINFO, "MemAvailable:")? >> 20,
        ),
        // Twice as many: connect(2) tries every other port first, and once those are taken, it searches them all each time.
        (
            "ports for each server",
            2 * connections,
            1 + ports[1] - ports[0],
        ),
        (
            "descriptors for each process",
            process,
            usize::try_from(descriptors)?,
        ),
        (
            "open files in all",
            2 * servers * process,
            files[2].saturating_sub(files[0]),
        ),
    ];
    let mut all = Vec::new();
    for (what, needed, there) in needs {
        if needed > there {
            return Err(format!("this takes {needed} {what}, but there are only {there}").into());
        }
        all.push(format!("{needed} {what}"));
    }
    eprintln!("this takes {}", all.join(", "));
    Ok(())
}

fn numbers(file: &str) -> Result<Vec<usize>> {
    let text = fs::read_to_string(file)?;
    let numbers = text.split_whitespace().map(str::parse);
    Ok(numbers.collect::<std::result::Result<_, _>>()?)
}
