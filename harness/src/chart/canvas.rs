//! A sheet of paper: plotters' SVG backend with one font, pixels as floating point numbers, and dashes.

use std::sync::Once;

use anyhow::{Result, anyhow};
use plotters::{
    backend::SVGBackend,
    coord::Shift,
    drawing::{DrawingArea, IntoDrawingArea},
    element::{Circle, PathElement, Rectangle},
    style::{
        Color, FontStyle, RGBColor, ShapeStyle, TextStyle, register_font,
        text_anchor::{HPos, Pos, VPos},
    },
};

/// The one font there is. Licence: `assets/DejaVuSans-LICENSE.txt`.
pub(super) const FONT: &str = "DejaVu Sans";
pub(super) const FONT_DATA: &[u8] = include_bytes!("../../assets/DejaVuSans.ttf");

pub(super) const PAPER: RGBColor = RGBColor(0xff, 0xff, 0xff);
pub(super) const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
pub(super) const GREY: RGBColor = RGBColor(0x5c, 0x5c, 0x5c);
pub(super) const FAINT: RGBColor = RGBColor(0xe3, 0xe3, 0xe3);
pub(super) const FRAME: RGBColor = RGBColor(0x9a, 0x9a, 0x9a);

/// Colours that are drawn dashed. plotters has no dashes in its SVG, so they are told apart by colour afterwards.
pub(super) const DASHED: [(RGBColor, &str); 3] = [
    (RGBColor(0x33, 0x33, 0x33), "18,9"),
    (RGBColor(0x00, 0x9e, 0x73), "9,6"),
    (RGBColor(0xb0, 0x7a, 0x00), "4,5"),
];

/// plotters counts in whole pixels; drawing at twice the size and showing at half keeps curves smooth.
const FINE: f64 = 2.0;

/// Where a text hangs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a line looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) color: RGBColor,
    pub(super) width: f64,
    pub(super) alpha: f64,
}

/// Makes the font known to plotters.
pub(super) fn register() {
    static FONT_ONCE: Once = Once::new();
    FONT_ONCE.call_once(|| {
        // A font that fails to register shows up as an error of the first text.
        let _ = register_font(FONT, FontStyle::Normal, FONT_DATA);
    });
}

pub(super) struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
}

impl<'a> Canvas<'a> {
    pub(super) fn new(text: &'a mut String, width: u32, height: u32) -> Self {
        register();
        let size = (width * FINE as u32, height * FINE as u32);
        Canvas { area: SVGBackend::with_string(text, size).into_drawing_area() }
    }

    pub(super) fn finish(self) -> Result<()> {
        self.area.present().map_err(|e| anyhow!("cannot finish the chart: {e}"))
    }

    /// Writes `text` with its upper edge at `at`.
    pub(super) fn text(
        &mut self,
        text: &str,
        size: f64,
        color: RGBColor,
        anchor: Anchor,
        at: (f64, f64),
    ) -> Result<()> {
        let h = match anchor {
            Anchor::Start => HPos::Left,
            Anchor::Middle => HPos::Center,
            Anchor::End => HPos::Right,
        };
        let style = style(size).color(&color).pos(Pos::new(h, VPos::Top));
        self.area.draw_text(text, &style, fine(at)).map_err(|e| anyhow!("cannot write '{text}': {e}"))
    }

    pub(super) fn line(&mut self, points: &[(f64, f64)], line: Line) -> Result<()> {
        let style = ShapeStyle {
            color: line.color.mix(line.alpha),
            filled: false,
            stroke_width: (line.width * FINE).round() as u32,
        };
        let mut path: Vec<(i32, i32)> = points.iter().map(|p| fine(*p)).collect();
        path.dedup();
        if let &[only] = path.as_slice() {
            let dot = Circle::new(only, (2.5 * FINE) as i32, style.filled());
            return self.area.draw(&dot).map_err(|e| anyhow!("cannot draw a point: {e}"));
        }
        self.area.draw(&PathElement::new(path, style)).map_err(|e| anyhow!("cannot draw a line: {e}"))
    }

    pub(super) fn frame(&mut self, from: (f64, f64), to: (f64, f64), color: RGBColor) -> Result<()> {
        self.rect(from, to, ShapeStyle { color: color.to_rgba(), filled: false, stroke_width: FINE as u32 })
    }

    pub(super) fn rect_of(
        &mut self,
        from: (f64, f64),
        to: (f64, f64),
        color: RGBColor,
        alpha: f64,
    ) -> Result<()> {
        self.rect(from, to, ShapeStyle { color: color.mix(alpha), filled: true, stroke_width: 0 })
    }

    fn rect(&mut self, from: (f64, f64), to: (f64, f64), style: ShapeStyle) -> Result<()> {
        self.area
            .draw(&Rectangle::new([fine(from), fine(to)], style))
            .map_err(|e| anyhow!("cannot draw a rectangle: {e}"))
    }

    /// How wide `text` will be.
    pub(super) fn width(&self, text: &str, size: f64) -> f64 {
        self.area.estimate_text_size(text, &style(size)).map_or(0.0, |(w, _)| f64::from(w) / FINE)
    }

    /// `text`, cut with an ellipsis if it is wider than `most`.
    pub(super) fn fit(&self, text: &str, size: f64, most: f64) -> String {
        if self.width(text, size) <= most {
            return text.to_owned();
        }
        let mut cut = text.to_owned();
        while cut.pop().is_some() {
            let shown = format!("{}…", cut.trim_end());
            if self.width(&shown, size) <= most {
                return shown;
            }
        }
        String::new()
    }

    /// `text` in at most `lines` lines, broken between words; the last is cut if need be.
    pub(super) fn wrap(&self, text: &str, size: f64, most: f64, lines: usize) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        for word in text.split_whitespace() {
            let full = out.len() == lines;
            match out.last_mut() {
                Some(line) if full || self.width(&format!("{line} {word}"), size) <= most => {
                    line.push(' ');
                    line.push_str(word);
                }
                _ => out.push(word.to_owned()),
            }
        }
        if let Some(line) = out.last_mut() {
            *line = self.fit(line, size, most);
        }
        out
    }
}

/// plotters sizes text by its line height, 1.24 em.
fn style(size: f64) -> TextStyle<'static> {
    TextStyle::from((FONT, size * 1.24 * FINE))
}

fn fine((x, y): (f64, f64)) -> (i32, i32) {
    // Saturating casts: a coordinate is bounded by the size of the sheet.
    ((x * FINE).round() as i32, (y * FINE).round() as i32)
}

/// Adds what plotters cannot say: the size on screen, dashes, and fonts to fall back on.
pub(super) fn polish(svg: &str, width: u32, height: u32) -> String {
    let (w, h) = (width * FINE as u32, height * FINE as u32);
    let mut svg = svg
        .replacen(
            &format!("width=\"{w}\" height=\"{h}\" viewBox"),
            &format!("width=\"{width}\" height=\"{height}\" viewBox"),
            1,
        )
        .replace(&format!("font-family=\"{FONT}\""), &format!("font-family=\"{FONT}, Verdana, sans-serif\""))
        .replace("<polyline ", "<polyline stroke-linejoin=\"round\" ");
    for (RGBColor(r, g, b), dashes) in DASHED {
        let stroke = format!("stroke=\"#{r:02X}{g:02X}{b:02X}\"");
        svg = svg.replace(&stroke, &format!("{stroke} stroke-dasharray=\"{dashes}\""));
    }
    svg
}
