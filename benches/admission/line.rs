//! One line of output.

#![expect(clippy::print_stdout, reason = "the result is for the terminal")]

/// What a figure is held to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bar {
    /// At least so much.
    Least(f64),
    /// At most so much.
    Most(f64),
    /// Nothing: it explains another one.
    None,
}

/// The columns.
pub(crate) fn head() {
    println!("row\tworkload\twhat\tfigure\tbar\tverdict");
}

/// A figure, with one digit behind the point or as many as a small one needs.
pub(crate) fn put(row: &str, workload: &str, what: &str, figure: f64, bar: Bar) {
    let digits = if figure.abs() < 10.0 { 2 } else { 1 };
    let (bar, verdict) = match bar {
        Bar::Least(least) => (format!(">= {least}"), verdict(least <= figure)),
        Bar::Most(most) => (format!("<= {most}"), verdict(figure <= most)),
        Bar::None => ("-".to_owned(), "-"),
    };
    println!("{row}\t{workload}\t{what}\t{figure:.digits$}\t{bar}\t{verdict}");
}

/// What is said in words.
pub(crate) fn say(row: &str, workload: &str, what: &str, said: &str) {
    println!("{row}\t{workload}\t{what}\t{said}\t-\t-");
}

const fn verdict(is_met: bool) -> &'static str {
    if is_met { "met" } else { "MISSED" }
}
