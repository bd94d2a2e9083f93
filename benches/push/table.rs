//! The table: medians and spreads of what was measured, and their ratios.

/// What is measured in each round, in this order.
pub(crate) const ROWS: [(&str, Across); 9] = [
    ("handshakes/s", Across::Sum),
    ("CPU for a handshake, µs", Across::Mean),
    ("CPU for a notification, µs", Across::Mean),
    ("lateness, median, ms", Across::Worst),
    ("lateness, 99th percentile, ms", Across::Worst),
    ("memory for a connection, bytes", Across::Mean),
    ("memory after a wave of clients, KiB", Across::Sum),
    ("memory after a second wave, KiB", Across::Sum),
    ("growth from wave to wave, KiB", Across::Sum),
];

/// One for each of [`ROWS`]. NaN where the client was saturated.
pub(crate) type Figures = [f64; ROWS.len()];

/// What one figure for several servers is.
#[derive(Clone, Copy)]
pub(crate) enum Across {
    Sum,
    Mean,
    Worst,
}

/// All figures for the clients of one interval.
pub(crate) struct Load {
    pub(crate) interval: f64,
    rounds: Vec<(Figures, Figures)>,
}

impl Load {
    pub(crate) fn new(interval: f64) -> Self {
        Self {
            interval,
            rounds: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, wspush: Figures, reference: Figures) {
        self.rounds.push((wspush, reference));
    }

    fn print(&self, connections: f64) {
        let rate = connections / self.interval;
        let title = format!("every {} s: {rate:.0} notifications/s", self.interval);
        println!(
            "{title:38} {:>26} {:>26} {:>20}",
            "wspush", "reference", "ratio"
        );
        for (row, (name, _)) in ROWS.iter().enumerate() {
            let column = |figure: fn(&(Figures, Figures), usize) -> f64| {
                summary(self.rounds.iter().map(|round| figure(round, row)).collect())
            };
            println!(
                "  {name:36} {:>26} {:>26} {:>20}",
                column(|round, row| round.0[row]),
                column(|round, row| round.1[row]),
                column(|round, row| round.0[row] / round.1[row]),
            );
        }
    }
}

/// The figures for several servers as one.
pub(crate) fn over_all(servers: &[Figures]) -> Figures {
    let mut figures = [0.0; ROWS.len()];
    for (row, (_, across)) in ROWS.iter().enumerate() {
        let column = || servers.iter().map(|server| server[row]);
        figures[row] = match across {
            Across::Sum => column().sum(),
            Across::Mean => column().sum::<f64>() / count(servers.len()),
            // A saturated client counts as the worst.
            Across::Worst => column().max_by(f64::total_cmp).unwrap_or(f64::NAN),
        };
    }
    figures
}

pub(crate) fn print(connections: usize, servers: usize, loads: &[Load]) {
    println!("{connections} connections, {servers} server(s), median (least–most) of the rounds");
    for load in loads {
        load.print(count(connections));
    }
}

fn summary(mut figures: Vec<f64>) -> String {
    figures.retain(|figure| !figure.is_nan());
    figures.sort_by(f64::total_cmp);
    match figures.as_slice() {
        [] => "client saturated".into(),
        [least, .., most] => format!(
            "{} ({}–{})",
            digits(f64::midpoint(
                figures[(figures.len() - 1) / 2],
                figures[figures.len() / 2]
            )),
            digits(*least),
            digits(*most)
        ),
        [only] => digits(*only),
    }
}

/// Three digits say all that there is to say.
fn digits(figure: f64) -> String {
    if !figure.is_finite() {
        return "-".into();
    }
    let decimals = match figure.abs() {
        ..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{figure:.decimals$}")
}

/// Counts here are far from 2^52.
#[expect(clippy::cast_precision_loss)]
pub(crate) fn count(count: usize) -> f64 {
    count as f64
}
