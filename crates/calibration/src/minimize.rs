//! Finds the parameters that make a function least, without derivatives.
//!
//! The downhill simplex of Nelder and Mead (1965) with the coefficients that adapt to the number of
//! parameters (Gao and Han 2012). What it minimises here comes out of a simulation: cheap, slightly
//! rough, and without a derivative.

/// Where a search ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Minimum {
    /// The parameters.
    pub at: Vec<f64>,
    /// The function there.
    pub value: f64,
    /// How often the function was called.
    pub calls: usize,
}

/// Searches from `start`, at first in steps of `step`, until the simplex is flat to one part in a
/// hundred thousand or the function was called `calls_max` times.
///
/// A value that is no number counts as infinite. The same input gives the same answer.
pub fn minimize(
    mut function: impl FnMut(&[f64]) -> f64,
    start: &[f64],
    step: f64,
    calls_max: usize,
) -> Minimum {
    let mut calls = 0;
    let mut value_at = |at: Vec<f64>| {
        calls += 1;
        let value = function(&at);
        Vertex { at, value: if value.is_nan() { f64::INFINITY } else { value } }
    };
    let mut simplex = vec![value_at(start.to_vec())];
    for axis in 0..start.len() {
        let at = start.iter().enumerate();
        simplex.push(value_at(at.map(|(i, x)| if i == axis { x + step } else { *x }).collect()));
    }
    let mut used = simplex.len();
    let coefficients = Coefficients::new(start.len());
    loop {
        simplex.sort_by(|a, b| a.value.total_cmp(&b.value));
        let Some((best, worst)) = simplex.first().zip(simplex.last()) else { break };
        let flat = worst.value - best.value <= 1e-5 * best.value.abs() + 1e-12;
        if flat || used >= calls_max || start.is_empty() {
            break;
        }
        used += turn(&mut simplex, &coefficients, &mut value_at);
    }
    let best = simplex.into_iter().next().unwrap_or_default();
    Minimum { at: best.at, value: best.value, calls }
}

#[derive(Clone, Debug, Default)]
struct Vertex {
    at: Vec<f64>,
    value: f64,
}

struct Coefficients {
    expand: f64,
    contract: f64,
    shrink: f64,
}

impl Coefficients {
    fn new(parameters: usize) -> Self {
        let n = parameters.max(2) as f64;
        Self { expand: 1.0 + 2.0 / n, contract: 0.75 - 0.5 / n, shrink: 1.0 - 1.0 / n }
    }
}

/// Replaces the worst vertex of the sorted simplex, or shrinks it; returns the calls it took.
fn turn(
    simplex: &mut Vec<Vertex>,
    coefficients: &Coefficients,
    value_at: &mut impl FnMut(Vec<f64>) -> Vertex,
) -> usize {
    let Some(worst) = simplex.pop() else { return 0 };
    let others = simplex.len().max(1) as f64;
    let centre: Vec<f64> = (0..worst.at.len())
        .map(|axis| simplex.iter().filter_map(|it| it.at.get(axis)).sum::<f64>() / others)
        .collect();
    let toward = |share: f64| -> Vec<f64> {
        centre.iter().zip(&worst.at).map(|(c, w)| c + share * (c - w)).collect()
    };
    let best = simplex.first().map_or(f64::INFINITY, |it| it.value);
    let second_worst = simplex.last().map_or(f64::INFINITY, |it| it.value);
    let reflected = value_at(toward(1.0));
    if reflected.value < best {
        let expanded = value_at(toward(coefficients.expand));
        simplex.push(if expanded.value < reflected.value { expanded } else { reflected });
        return 2;
    }
    if reflected.value < second_worst {
        simplex.push(reflected);
        return 1;
    }
    let outside = reflected.value < worst.value;
    let share = if outside { coefficients.contract } else { -coefficients.contract };
    let contracted = value_at(toward(share));
    if contracted.value < reflected.value.min(worst.value) {
        simplex.push(contracted);
        return 2;
    }
    simplex.push(worst);
    let anchor = simplex.first().map(|it| it.at.clone()).unwrap_or_default();
    for vertex in simplex.iter_mut().skip(1) {
        let at = vertex.at.iter().zip(&anchor);
        *vertex = value_at(at.map(|(x, a)| a + coefficients.shrink * (x - a)).collect());
    }
    simplex.len().saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curved_valley_is_followed_to_its_end() {
        // Rosenbrock's function, least at (1, 1).
        let found = minimize(
            |at| (1.0 - at[0]).powi(2) + 100.0 * (at[1] - at[0].powi(2)).powi(2),
            &[-1.2, 1.0],
            0.5,
            2_000,
        );
        assert!((found.at[0] - 1.0).abs() < 1e-2 && (found.at[1] - 1.0).abs() < 2e-2, "{found:?}");
        assert!(found.calls <= 2_010);
    }

    #[test]
    fn what_is_no_number_is_avoided() {
        let found = minimize(|at| if at[0] < 0.0 { f64::NAN } else { at[0] }, &[1.0], 0.3, 500);
        assert!((0.0..1e-3).contains(&found.at[0]), "{found:?}");
    }

    #[test]
    fn nothing_to_vary_is_one_call() {
        assert_eq!(minimize(|_| 7.0, &[], 1.0, 100).calls, 1);
    }
}
