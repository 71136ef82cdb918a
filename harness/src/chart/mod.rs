//! The chart of a run: memory, queue and window over the arriving packets, and below them the moments at which the
//! stack coalesced, collapsed, pruned, dropped or clamped.
//!
//! Drawn as SVG with plotters; PNG comes from the same SVG. Both use the one bundled font, so a chart looks the same
//! on every machine. Lines are drawn as steps, because a value holds until the next event changes it; a run with more
//! events than pixels is thinned out so that the smallest and the largest value of every pixel column stay.

mod canvas;
mod panel;
mod scale;
#[cfg(test)]
mod tests;

use anyhow::{Context as _, Result, bail};

use crate::record::Sample;
use canvas::{Anchor, Canvas, GREY, INK, Line};
use panel::{Panel, Place};

/// What the x axis counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XAxis {
    /// Arriving packets.
    #[default]
    Packet,
    /// Time since the run began.
    Time,
}

/// How a chart is drawn.
#[derive(Clone, Debug)]
pub struct Options {
    /// Headline.
    pub title: String,
    /// Line below it: policy, verdict, whatever a reader should know first.
    pub subtitle: String,
    /// What the x axis counts.
    pub x: XAxis,
    /// Draw the right edge of the window too.
    pub right_edge: bool,
    /// Which connection; the one with the most samples if not said.
    pub conn: Option<u32>,
    /// Counters worth a footnote, in order. Zeros are left out.
    pub counters: Vec<(String, u64)>,
    /// Width and height in pixels.
    pub size: (u32, u32),
}

impl Default for Options {
    fn default() -> Self {
        Options {
            title: String::new(),
            subtitle: String::new(),
            x: XAxis::Packet,
            right_edge: false,
            conn: None,
            counters: Vec::new(),
            size: (1200, 720),
        }
    }
}

/// One run, drawn as SVG.
///
/// # Errors
/// The size asked for cannot hold a chart.
pub fn svg(samples: &[Sample], options: &Options) -> Result<String> {
    draw(&[(String::new(), samples)], options)
}

/// Several runs side by side on the same axes, drawn as SVG.
///
/// # Errors
/// No run was given, or the size asked for cannot hold a chart.
pub fn comparison(runs: &[(&str, &[Sample])], options: &Options) -> Result<String> {
    if runs.is_empty() {
        bail!("no runs to compare; give at least one");
    }
    let runs: Vec<_> = runs.iter().map(|(name, samples)| ((*name).to_owned(), *samples)).collect();
    draw(&runs, options)
}

/// The name of the one font there is, once it is known to plotters.
pub(crate) fn font() -> &'static str {
    canvas::register();
    canvas::FONT
}

/// The same picture as PNG, `zoom` times as many pixels in each direction.
///
/// # Errors
/// `svg` is no SVG, or the picture would be larger than 20 000 pixels in one direction.
pub fn png(svg: &str, zoom: f32) -> Result<Vec<u8>> {
    use resvg::{tiny_skia, usvg};
    const MOST: f32 = 20_000.0;
    let mut options = usvg::Options { font_family: canvas::FONT.into(), ..Default::default() };
    options.fontdb_mut().load_font_data(canvas::FONT_DATA.to_vec());
    options.fontdb_mut().set_sans_serif_family(canvas::FONT);
    let tree = usvg::Tree::from_str(svg, &options).context("the chart is no SVG")?;
    let (w, h) = (tree.size().width() * zoom, tree.size().height() * zoom);
    if !(1.0..=MOST).contains(&w) || !(1.0..=MOST).contains(&h) {
        bail!("a PNG of {w} by {h} pixels cannot be made; choose a zoom that keeps both within 1 to {MOST}");
    }
    let mut pixmap = tiny_skia::Pixmap::new(w.round() as u32, h.round() as u32)
        .with_context(|| format!("no memory for a PNG of {w} by {h} pixels"))?;
    pixmap.fill(tiny_skia::Color::WHITE);
    resvg::render(&tree, tiny_skia::Transform::from_scale(zoom, zoom), &mut pixmap.as_mut());
    pixmap.encode_png().context("cannot encode the PNG")
}

fn draw(runs: &[(String, &[Sample])], options: &Options) -> Result<String> {
    let (width, height) = options.size;
    let columns = match runs.len() {
        n @ 1..=3 => n,
        4 => 2,
        _ => 3,
    };
    let rows = runs.len().div_ceil(columns);
    let least = (320 * columns as u32, 360 * rows as u32);
    if width < least.0 || height < least.1 || width > 10_000 || height > 10_000 {
        bail!(
            "a chart of {width} by {height} pixels cannot hold {} panels; use {} by {} to 10000 by 10000",
            runs.len(),
            least.0,
            least.1
        );
    }
    let panels: Vec<Panel<'_>> =
        runs.iter().map(|(name, samples)| Panel::new(name, samples, options)).collect();
    let axes = panel::Axes::shared(&panels);

    let mut text = String::new();
    let mut canvas = Canvas::new(&mut text, width, height);
    let (w, h) = (f64::from(width), f64::from(height));
    let mut y = 16.0;
    if !options.title.is_empty() {
        canvas.text(&canvas.fit(&options.title, 22.0, w - 48.0), 22.0, INK, Anchor::Start, (24.0, y))?;
        y += 30.0;
    }
    let mut subtitle = options.subtitle.clone();
    if let [only] = panels.as_slice()
        && let Some(note) = only.note()
    {
        subtitle = if subtitle.is_empty() { note } else { format!("{subtitle} · {note}") };
    }
    if !subtitle.is_empty() {
        for line in canvas.wrap(&subtitle, 14.0, w - 48.0, 2) {
            canvas.text(&line, 14.0, GREY, Anchor::Start, (24.0, y))?;
            y += 20.0;
        }
    }
    y = legend(&mut canvas, &axes, (24.0, y + 8.0), w - 24.0)? + 14.0;

    let notes: String = options
        .counters
        .iter()
        .filter(|(_, v)| *v != 0)
        .map(|(name, v)| format!("{name} {}", scale::thousands(*v as f64)))
        .collect::<Vec<_>>()
        .join(" · ");
    let notes = canvas.wrap(&notes, 11.0, w - 48.0, 2);
    let bottom = h - 10.0 - 15.0 * notes.len() as f64;
    for (i, line) in notes.iter().enumerate() {
        canvas.text(line, 11.0, GREY, Anchor::Start, (24.0, bottom + 2.0 + 15.0 * i as f64))?;
    }

    let left = 96.0;
    let right = if axes.second.is_some() { 92.0 } else { 64.0 };
    let gap = 62.0;
    let panel_w = (w - left - right - gap * (columns - 1) as f64) / columns as f64;
    let panel_h = (bottom - y) / rows as f64;
    for (i, panel) in panels.iter().enumerate() {
        let (row, column) = (i / columns, i % columns);
        let x = left + (panel_w + gap) * column as f64;
        let last_column = column + 1 == columns || i + 1 == panels.len();
        let place = Place {
            left: x,
            top: y + panel_h * row as f64,
            right: x + panel_w,
            bottom: y + panel_h * (row + 1) as f64 - if row + 1 < rows { 10.0 } else { 0.0 },
            y_labels: column == 0,
            second_labels: last_column,
        };
        panel.draw(&mut canvas, &axes, &place, options.x)?;
    }
    canvas.finish()?;
    Ok(canvas::polish(&text, width, height))
}

/// Draws the legend from `at` to the right, in as many lines as it takes; returns where it ends.
fn legend(canvas: &mut Canvas<'_>, axes: &panel::Axes, at: (f64, f64), right: f64) -> Result<f64> {
    let (mut x, mut y) = at;
    for series in &axes.series {
        let name = if axes.on_second(*series) {
            format!("{} (right axis)", series.name())
        } else {
            series.name().to_owned()
        };
        let width = 34.0 + canvas.width(&name, 13.0) + 22.0;
        if x + width > right && x > at.0 {
            x = at.0;
            y += 21.0;
        }
        let line = Line { color: series.color(), width: 2.5, alpha: 1.0 };
        canvas.line(&[(x, y + 8.0), (x + 28.0, y + 8.0)], line)?;
        canvas.text(&name, 13.0, INK, Anchor::Start, (x + 35.0, y))?;
        x += width;
    }
    Ok(y + 20.0)
}
