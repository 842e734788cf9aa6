//! Curves over a number of something, as SVG out of the figures of this very run.
//!
//! What must never happen here: a point that was not measured.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// Width and height of a picture.
const SIZE: (u32, u32) = (720, 420);
/// A colour that says something on white and on dark paper, for each curve.
const COLOURS: [RGBColor; 4] =
    [RGBColor(31, 119, 180), RGBColor(214, 39, 40), RGBColor(44, 160, 44), RGBColor(148, 103, 189)];

/// What was measured at each number.
#[derive(Debug, Clone)]
pub(crate) struct Curve {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

impl Curve {
    /// Nothing measured yet.
    pub fn new(name: impl Into<String>) -> Curve {
        Curve { name: name.into(), points: Vec::new() }
    }

    /// The power of the number with which it grows: 1 is linear, 0 is flat. The slope of the straight line through the logarithms.
    pub fn power(&self) -> f64 {
        let logs: Vec<(f64, f64)> = self.points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
        let count = logs.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| logs.iter().map(of).sum::<f64>() / count;
        let (x, y) = (mean(|log| log.0), mean(|log| log.1));
        let above: f64 = logs.iter().map(|log| (log.0 - x) * (log.1 - y)).sum();
        above / logs.iter().map(|log| (log.0 - x).powi(2)).sum::<f64>()
    }

    /// The last figure by the first.
    pub fn ratio(&self) -> f64 {
        match (self.points.first(), self.points.last()) {
            (Some(first), Some(last)) => last.1 / first.1,
            _ => f64::NAN,
        }
    }
}

/// Draws the curves into `folder/NAME.svg`, both axes from their own least to their own most, the number by its logarithm.
pub(crate) fn draw(
    folder: &Path,
    name: &str,
    title: &str,
    axes: (&str, &str),
    curves: &[Curve],
) -> Result<()> {
    let file = folder.join(format!("{name}.svg"));
    let failed = |error: &dyn std::fmt::Display| anyhow!("{}: {error}", file.display());
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let most = |of: fn(&(f64, f64)) -> f64| all().map(of).fold(f64::MIN, f64::max);
    let least = all().map(|point| point.0).fold(f64::MAX, f64::min);
    let area = SVGBackend::new(&file, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(|error| failed(&error))?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(14)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d((least..most(|point| point.0)).log_scale(), 0.0..most(|point| point.1) * 1.1)
        .map_err(|error| failed(&error))?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(axes.0)
        .y_desc(axes.1)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| match most(|point| point.1) {
            top if top < 1.0 => format!("{y:.2}"),
            top if top < 20.0 => format!("{y:.1}"),
            _ => format!("{y:.0}"),
        })
        .draw()
        .map_err(|error| failed(&error))?;
    for (curve, colour) in curves.iter().zip(COLOURS.into_iter().cycle()) {
        chart
            .draw_series(LineSeries::new(curve.points.iter().copied(), colour.stroke_width(2)).point_size(4))
            .map_err(|error| failed(&error))?
            .label(&curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()
        .map_err(|error| failed(&error))?;
    area.present().map_err(|error| failed(&error))?;
    println!("  drawn: {}", file.display());
    Ok(())
}
