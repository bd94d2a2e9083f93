//! Tables of figures: medians, ranges and ratios.

/// One figure per row, NaN if the client was saturated.
pub(crate) type Figures = Vec<f64>;

/// A figure's name, and how the figures of several servers become one.
pub(crate) type Row = (&'static str, Across);

#[derive(Clone, Copy)]
pub(crate) enum Across {
    Sum,
    Mean,
    Worst,
}

pub(crate) struct Table {
    title: String,
    rows: &'static [Row],
    rounds: Vec<[Option<Figures>; 2]>,
}

impl Table {
    pub(crate) fn new(title: String, rows: &'static [Row]) -> Self {
        Self {
            title,
            rows,
            rounds: Vec::new(),
        }
    }

    /// Adds a round: the figures of wspush and of the reference.
    pub(crate) fn add(&mut self, figures: [Option<Figures>; 2]) {
        self.rounds.push(figures);
    }

    pub(crate) fn print(&self) {
        println!(
            "{:38} {:>26} {:>26} {:>20}",
            self.title, "wspush", "reference", "ratio"
        );
        for (row, (name, _)) in self.rows.iter().enumerate() {
            let column = |figure: fn([Option<f64>; 2]) -> Option<f64>| {
                let rounds = self.rounds.iter();
                let figures =
                    rounds.map(|[a, b]| [a, b].map(|figures| Some(figures.as_ref()?[row])));
                summary(figures.filter_map(figure).collect())
            };
            println!(
                "  {name:36} {:>26} {:>26} {:>20}",
                column(|both| both[0]),
                column(|both| both[1]),
                // 0 / 0 would be NaN, like the figure of a saturated client.
                column(|both| match both[1]? {
                    0.0 => None,
                    reference => Some(both[0]? / reference),
                }),
            );
        }
    }
}

/// The figures of several servers as one.
pub(crate) fn across(rows: &[Row], servers: &[Figures]) -> Figures {
    let rows = rows.iter().enumerate();
    rows.map(|(row, (_, across))| {
        let column = || servers.iter().map(|server| server[row]);
        match across {
            Across::Sum => column().sum(),
            Across::Mean => column().sum::<f64>() / count(servers.len()),
            // A saturated client counts as the worst.
            Across::Worst => column().max_by(f64::total_cmp).unwrap_or(f64::NAN),
        }
    })
    .collect()
}

fn summary(mut figures: Vec<f64>) -> String {
    if figures.is_empty() {
        return String::new();
    }
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

/// Three digits are enough.
pub(crate) fn digits(figure: f64) -> String {
    if !figure.is_finite() {
        return "-".into();
    }
    if figure.fract() == 0.0 {
        return figure.to_string();
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
