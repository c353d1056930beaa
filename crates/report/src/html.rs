//! `report.html`: a run, several or a frontier, as one page that needs nothing else.
//!
//! The page is a frame, a style sheet, a plotting library and a script, all embedded, and the figures
//! as JSON; the script draws what the figures hold. Nothing is fetched, so that the file can be mailed,
//! archived and opened years later. Its size does not grow with the number of requests: they are in it
//! as quantiles, slices of time and totals.

pub mod detail;

use serde::Serialize;
use serde_json::Value;
use types::slo::Slo;

pub use self::detail::Detail;
use crate::{frontier::Frontier, paired::Difference, plan::Plan, summary::Run};

const FRAME: &str = include_str!("html/page.html");
const STYLE: &str = include_str!("html/page.css");
const SCRIPT: &str = include_str!("html/page.js");
const CHARTS: &str = include_str!("html/charts.js");
const UPLOT: &str = include_str!("../vendor/uplot/uPlot.iife.min.js");
const UPLOT_STYLE: &str = include_str!("../vendor/uplot/uPlot.min.css");
const UPLOT_LICENSE: &str = include_str!("../vendor/uplot/LICENSE");

/// Most runs whose figures a page lists; the others are in `summary.json`.
const RUNS_MAX: usize = 400;

/// Most runs that a page shows in detail.
const DETAILS_MAX: usize = 24;

/// What a page shows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Page {
    /// What it is about.
    pub title: String,
    /// What a good request keeps.
    pub slo: Option<Slo>,
    /// What was run, as `run.json` has it.
    pub manifest: Value,
    /// Figures of runs.
    pub runs: Vec<Run>,
    /// How policies differ.
    pub differences: Vec<Difference>,
    /// Frontiers, one for each policy.
    pub frontiers: Vec<Frontier>,
    /// Runs in detail.
    pub details: Vec<Detail>,
    /// A plan.
    pub plan: Option<Plan>,
}

impl Page {
    /// The page. What it has no room for is left out, the last first.
    #[must_use]
    pub fn render(&self) -> String {
        let runs = self.runs.iter().take(RUNS_MAX).cloned().collect();
        let details = self.details.iter().take(DETAILS_MAX).cloned().collect();
        let shown = Self { runs, details, ..self.clone() };
        let data = serde_json::to_string(&shown).unwrap_or_default();
        let parts = [
            ("<!--title-->", text(&self.title)),
            ("/*uplot-style*/", UPLOT_STYLE.to_owned()),
            ("/*style*/", STYLE.to_owned()),
            // A script element ends at the first `</script`, wherever it stands.
            ("/*data*/", data.replace('<', "\\u003c")),
            ("/*license*/", UPLOT_LICENSE.replace("*/", "")),
            ("/*uplot*/", UPLOT.to_owned()),
            ("/*charts*/", CHARTS.to_owned()),
            ("/*script*/", SCRIPT.to_owned()),
        ];
        // Cut at the marks first: what is put in may hold anything, marks too.
        let mut out = String::with_capacity(data.len().saturating_add(1 << 17));
        let mut rest = FRAME;
        for (mark, part) in parts {
            if let Some((before, after)) = rest.split_once(mark) {
                out.push_str(before);
                out.push_str(&part);
                rest = after;
            }
        }
        out.push_str(rest);
        out
    }
}

/// Text for an element.
fn text(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        frontier::tests::frontier,
        summary::tests::{records, run},
    };

    fn page() -> Page {
        Page {
            title: "a <b> & c".to_owned(),
            manifest: serde_json::json!({ "command": "</script><!--title-->/*script*/" }),
            runs: vec![run(&records())],
            frontiers: vec![frontier()],
            details: vec![Detail::of("one", &records(), &[])],
            ..Page::default()
        }
    }

    #[test]
    fn a_page_needs_nothing_else() {
        let html = page().render();
        for outside in ["src=\"", "href=\"http", "@import", "url(http", "fetch("] {
            assert!(!html.contains(outside), "{outside}");
        }
        for mark in ["/*style*/", "/*data*/", "/*uplot*/", "/*charts*/"] {
            assert!(!html.contains(mark), "{mark} is left");
        }
        assert!(html.contains("a &lt;b&gt; &amp; c"));
        assert!(html.contains("Permission is hereby granted"), "the licence goes with the library");
    }

    #[test]
    fn what_is_shown_cannot_end_the_script() {
        let html = page().render();
        assert_eq!(html.matches("</script>").count(), FRAME.matches("</script>").count());
        let data = html.split_once("type=\"application/json\">").unwrap().1;
        let data = data.split_once("</script>").unwrap().0;
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["manifest"]["command"], "</script><!--title-->/*script*/");
        assert_eq!(data["frontiers"][0]["policy"], "least-request");
    }
}
