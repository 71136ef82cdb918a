//! The collapse against the size of the queue, as a picture.

use anyhow::{Result, anyhow};
use plotters::prelude::{
    BLACK, ChartBuilder, Circle, Color, IntoDrawingArea, IntoFont, IntoLogRange, LineSeries, Palette,
    Palette99, PathElement, SVGBackend, SeriesLabelPosition, TriangleMarker, WHITE,
};

use super::report::Report;

fn kib(bytes: u32) -> f64 {
    f64::from(bytes) / 1024.0
}

/// Time against what is charged, both logarithmic: ours as lines, the plain copy as thin ones, the live kernel as marks.
///
/// # Errors
/// Nothing was measured.
pub(super) fn collapse(report: &Report) -> Result<String> {
    let mut text = String::new();
    let failed = |e: &dyn std::fmt::Display| anyhow!("cannot draw the chart: {e}");
    let points = &report.collapse;
    let ms = points.iter().map(super::collapse::Point::milliseconds).filter(|m| *m > 0.0);
    let (low, high) = ms.fold((f64::MAX, 0.0f64), |(a, b), m| (a.min(m), b.max(m)));
    let most = points.iter().map(|p| p.charged).max().ok_or_else(|| anyhow!("nothing was measured"))?;
    let name = crate::chart::font();
    {
        let area = SVGBackend::with_string(&mut text, (1100, 700)).into_drawing_area();
        area.fill(&WHITE).map_err(|e| failed(&e))?;
        let font = (name, 16).into_font();
        let mut chart = ChartBuilder::on(&area)
            .margin(16)
            .caption("What a collapse costs", (name, 22))
            .x_label_area_size(50)
            .y_label_area_size(80)
            .build_cartesian_2d(
                (kib(48 << 10)..kib(most) * 1.3).log_scale(),
                (low / 3.0..high * 2.0).log_scale(),
            )
            .map_err(|e| failed(&e))?;
        chart
            .configure_mesh()
            .x_desc("charged to the queue (sk_rmem_alloc), KiB")
            .y_desc("milliseconds for the arrival that collapses it")
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y}"))
            .label_style(font.clone())
            .draw()
            .map_err(|e| failed(&e))?;
        let mut kinds: Vec<&str> = points.iter().map(|p| p.what.as_str()).collect();
        kinds.dedup();
        for (i, kind) in kinds.iter().enumerate() {
            let color = Palette99::pick(i).to_rgba();
            let of = || points.iter().filter(|p| p.what == *kind);
            let line = of().map(|p| (kib(p.charged), p.milliseconds()));
            chart
                .draw_series(LineSeries::new(line, color.stroke_width(3)))
                .map_err(|e| failed(&e))?
                .label(*kind)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], color.stroke_width(3)));
            let floor = of().filter_map(|p| {
                let copy = p.measured.iter().find(|m| m.case == super::collapse::COPY)?;
                Some((kib(p.charged), copy.median() / 1e6))
            });
            chart
                .draw_series(LineSeries::new(floor, color.mix(0.4).stroke_width(1)))
                .map_err(|e| failed(&e))?;
            let dots = of().map(|p| Circle::new((kib(p.charged), p.milliseconds()), 4, color.filled()));
            chart.draw_series(dots).map_err(|e| failed(&e))?;
        }
        let nothing: [(f64, f64); 0] = [];
        chart
            .draw_series(LineSeries::new(nothing, BLACK.mix(0.4).stroke_width(1)))
            .map_err(|e| failed(&e))?
            .label("thin: a plain copy of the same bytes")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 22, y)], BLACK.mix(0.4).stroke_width(1)));
        if !report.kernel.is_empty() {
            let marks = report
                .kernel
                .iter()
                .map(|k| TriangleMarker::new((kib(k.charged), k.kernel.median() / 1e6), 9, BLACK.filled()));
            chart
                .draw_series(marks)
                .map_err(|e| failed(&e))?
                .label("the live kernel (small segments in slab heads)")
                .legend(|(x, y)| TriangleMarker::new((x + 11, y), 7, BLACK.filled()));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.9))
            .border_style(BLACK.mix(0.3))
            .label_font(font)
            .draw()
            .map_err(|e| failed(&e))?;
        area.present().map_err(|e| failed(&e))?;
    }
    Ok(text)
}
