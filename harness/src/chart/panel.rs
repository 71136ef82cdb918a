//! One plot with its strip of marks below.

use anyhow::Result;
use plotters::style::RGBColor;

use super::{
    Options, XAxis,
    canvas::{Anchor, Canvas, FAINT, FRAME, GREY, INK, Line, PAPER},
    scale::{self, Scale},
};
use crate::record::Sample;

/// A line of the chart. The colours are Okabe and Ito's, told apart by the colour-blind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Series {
    Budget,
    Charged,
    RecvQ,
    Window,
    Ssthresh,
    Acked,
    RightEdge,
}

impl Series {
    const ALL: [Series; 7] = [
        Series::Acked,
        Series::RightEdge,
        Series::Budget,
        Series::Charged,
        Series::RecvQ,
        Series::Ssthresh,
        Series::Window,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Series::Budget => "skmem_rb",
            Series::Charged => "skmem_r",
            Series::RecvQ => "recv-q",
            Series::Window => "rcv_win",
            Series::Ssthresh => "rcv_ssthresh",
            Series::Acked => "ACKed bytes",
            Series::RightEdge => "right edge",
        }
    }

    pub(super) const fn color(self) -> RGBColor {
        match self {
            Series::Budget => RGBColor(0x33, 0x33, 0x33),
            Series::Charged => RGBColor(0xd5, 0x5e, 0x00),
            Series::RecvQ => RGBColor(0x56, 0xb4, 0xe9),
            Series::Window => RGBColor(0x00, 0x72, 0xb2),
            Series::Ssthresh => RGBColor(0x00, 0x9e, 0x73),
            Series::Acked => RGBColor(0xcc, 0x79, 0xa7),
            Series::RightEdge => RGBColor(0xb0, 0x7a, 0x00),
        }
    }

    fn value(self, s: &Sample) -> f64 {
        let v = match self {
            Series::Budget => s.skmem_rb,
            Series::Charged => s.skmem_r,
            Series::RecvQ => s.recv_q,
            Series::Window => s.rcv_win,
            Series::Ssthresh => s.rcv_ssthresh,
            Series::Acked => s.acked,
            Series::RightEdge => s.right_edge,
        };
        v.max(0) as f64
    }

    /// Positions in the stream grow without end; the rest is bounded by the budget.
    const fn is_position(self) -> bool {
        matches!(self, Series::Acked | Series::RightEdge)
    }
}

/// Name, count and colour of a kind of mark.
type Mark = (&'static str, fn(&Sample) -> u32, RGBColor);

const MARKS: [Mark; 5] = [
    ("coalesce", |s| s.coalesced, RGBColor(0x56, 0xb4, 0xe9)),
    ("collapse", |s| s.collapsed, RGBColor(0x00, 0x9e, 0x73)),
    ("prune", |s| s.pruned, RGBColor(0xe6, 0x9f, 0x00)),
    ("drop", |s| s.dropped, RGBColor(0xd5, 0x5e, 0x00)),
    ("clamp", |s| s.clamped, RGBColor(0xcc, 0x79, 0xa7)),
];

/// Behind this many samples a line is thinned out.
const THIN_BEYOND: usize = 4000;

pub(super) struct Panel<'a> {
    name: String,
    samples: Vec<&'a Sample>,
    conn: Option<u32>,
    conns: usize,
    x: XAxis,
    right_edge: bool,
}

/// What the panels of one chart share.
pub(super) struct Axes {
    pub(super) series: Vec<Series>,
    x: Scale,
    first: (Scale, Vec<f64>),
    pub(super) second: Option<(Scale, Vec<f64>)>,
}

/// Where a panel goes and what it labels.
pub(super) struct Place {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
    pub(super) y_labels: bool,
    pub(super) second_labels: bool,
}

impl<'a> Panel<'a> {
    pub(super) fn new(name: &str, samples: &'a [Sample], options: &Options) -> Self {
        let mut per_conn = std::collections::BTreeMap::<u32, usize>::new();
        for s in samples {
            *per_conn.entry(s.conn).or_default() += 1;
        }
        let busiest = per_conn.iter().max_by_key(|(c, n)| (**n, u32::MAX - **c)).map(|(c, _)| *c);
        let conn = options.conn.or(busiest);
        Panel {
            name: name.to_owned(),
            samples: samples.iter().filter(|s| Some(s.conn) == conn).collect(),
            conn,
            conns: per_conn.len(),
            x: options.x,
            right_edge: options.right_edge,
        }
    }

    /// What a reader should know about the choice of data.
    pub(super) fn note(&self) -> Option<String> {
        match (self.samples.len(), self.conn) {
            (1, _) => Some("one sample only".to_owned()),
            (n, Some(c)) if n > 0 && self.conns > 1 => Some(format!("connection {c}, one of {}", self.conns)),
            _ => None,
        }
    }

    fn at(&self, s: &Sample) -> f64 {
        match self.x {
            XAxis::Packet => s.packet as f64,
            XAxis::Time => s.t_ns as f64 / 1e9,
        }
    }

    fn most(&self, series: Series) -> f64 {
        self.samples.iter().map(|s| series.value(s)).fold(0.0, f64::max)
    }

    pub(super) fn draw(
        &self,
        canvas: &mut Canvas<'_>,
        axes: &Axes,
        place: &Place,
        x_axis: XAxis,
    ) -> Result<()> {
        let lane_h = 15.0;
        let title_h = if self.name.is_empty() { 0.0 } else { 22.0 };
        let x_axis_h = 46.0;
        let strip_h = lane_h * MARKS.len() as f64;
        let plot = (place.top + title_h, place.bottom - x_axis_h - strip_h - 8.0);
        let strip_top = plot.1 + 8.0;
        let strip_bottom = strip_top + strip_h;
        if !self.name.is_empty() {
            let mut name = self.name.clone();
            if let Some(note) = self.note() {
                name = format!("{name} ({note})");
            }
            let name = canvas.fit(&name, 14.0, place.right - place.left);
            canvas.text(&name, 14.0, INK, Anchor::Start, (place.left, place.top))?;
        }
        let thin = |color, alpha| Line { color, width: 1.0, alpha };

        for tick in &axes.first.1 {
            let y = axes.first.0.place(*tick, plot.1, plot.0);
            canvas.line(&[(place.left, y), (place.right, y)], thin(FAINT, 1.0))?;
            if place.y_labels {
                canvas.text(
                    &scale::byte_label(*tick),
                    12.0,
                    GREY,
                    Anchor::End,
                    (place.left - 8.0, y - 7.0),
                )?;
            }
        }
        if let (Some((second, ticks)), true) = (&axes.second, place.second_labels) {
            for tick in ticks {
                let y = second.place(*tick, plot.1, plot.0);
                canvas.line(&[(place.right, y), (place.right + 4.0, y)], thin(FRAME, 1.0))?;
                let color = RGBColor(0x9c, 0x4a, 0x77);
                canvas.text(
                    &scale::byte_label(*tick),
                    12.0,
                    color,
                    Anchor::Start,
                    (place.right + 8.0, y - 7.0),
                )?;
            }
        }
        self.x_axis(canvas, axes, place, (plot, strip_top, strip_bottom), x_axis)?;
        canvas.frame((place.left, plot.0), (place.right, plot.1), FRAME)?;

        if self.samples.is_empty() {
            let words = match self.conn {
                Some(c) if self.conns > 0 => format!("connection {c} has no samples"),
                _ => "no samples: no segment of a connection was seen".to_owned(),
            };
            let middle = (place.left.midpoint(place.right), plot.0.midpoint(plot.1) - 8.0);
            let words = canvas.fit(&words, 15.0, place.right - place.left - 12.0);
            let half = canvas.width(&words, 15.0) / 2.0 + 8.0;
            canvas.rect_of(
                (middle.0 - half, middle.1 - 6.0),
                (middle.0 + half, middle.1 + 24.0),
                PAPER,
                1.0,
            )?;
            canvas.text(&words, 15.0, GREY, Anchor::Middle, middle)?;
        }
        for series in &axes.series {
            let y = match &axes.second {
                Some((second, _)) if axes.on_second(*series) => *second,
                _ => axes.first.0,
            };
            let points =
                self.path(*series, axes.x, (place.left, place.right), |v| y.place(v, plot.1, plot.0));
            let width = if *series == Series::Window { 2.0 } else { 1.5 };
            if !points.is_empty() {
                canvas.line(&points, Line { color: series.color(), width, alpha: 1.0 })?;
            }
        }
        self.strip(canvas, axes, place, strip_top, lane_h)
    }

    fn x_axis(
        &self,
        canvas: &mut Canvas<'_>,
        axes: &Axes,
        place: &Place,
        (plot, strip_top, bottom): ((f64, f64), f64, f64),
        x_axis: XAxis,
    ) -> Result<()> {
        let room = ((place.right - place.left) / 90.0).clamp(2.0, 12.0) as usize;
        let (factor, label) = match x_axis {
            XAxis::Packet => (1.0, "arriving packet".to_owned()),
            XAxis::Time => {
                let (factor, unit) = scale::time_unit(axes.x.high - axes.x.low);
                (factor, format!("time [{unit}]"))
            }
        };
        let whole = x_axis == XAxis::Packet;
        for tick in scale::decimal(axes.x.low * factor, axes.x.high * factor, room, whole) {
            let x = axes.x.place(tick / factor, place.left, place.right);
            let line = Line { color: FAINT, width: 1.0, alpha: 1.0 };
            canvas.line(&[(x, plot.0), (x, plot.1)], line)?;
            canvas.line(&[(x, strip_top), (x, bottom)], line)?;
            canvas.line(&[(x, bottom), (x, bottom + 5.0)], Line { color: FRAME, ..line })?;
            canvas.text(&scale::trimmed(tick), 12.0, GREY, Anchor::Middle, (x, bottom + 7.0))?;
        }
        let middle = place.left.midpoint(place.right);
        canvas.text(&label, 13.0, INK, Anchor::Middle, (middle, bottom + 24.0))
    }

    /// The marks, each kind in its own lane below the plot: nothing covers a line.
    fn strip(
        &self,
        canvas: &mut Canvas<'_>,
        axes: &Axes,
        place: &Place,
        top: f64,
        lane_h: f64,
    ) -> Result<()> {
        let bottom = top + lane_h * MARKS.len() as f64;
        for (i, (name, count, color)) in MARKS.iter().enumerate() {
            let y = top + lane_h * i as f64;
            if i > 0 {
                let line = Line { color: FAINT, width: 1.0, alpha: 1.0 };
                canvas.line(&[(place.left, y), (place.right, y)], line)?;
            }
            let total: u64 = self.samples.iter().map(|s| u64::from(count(s))).sum();
            let shade = if total == 0 { FRAME } else { INK };
            if place.y_labels {
                canvas.text(name, 11.0, shade, Anchor::End, (place.left - 8.0, y + 1.0))?;
            }
            // Marks that share a pixel column are one mark; the fullest column of the lane is the darkest.
            let mut columns: Vec<(f64, u64)> = Vec::new();
            for s in self.samples.iter().filter(|s| count(s) > 0) {
                let x = axes.x.place(self.at(s), place.left, place.right).round();
                match columns.last_mut() {
                    Some((last, n)) if *last == x => *n += u64::from(count(s)),
                    _ => columns.push((x, u64::from(count(s)))),
                }
            }
            let most = columns.iter().map(|(_, n)| *n).max().unwrap_or(1) as f64;
            let crowded = columns.windows(2).any(|w| matches!(w, [a, b] if b.0 - a.0 < 3.0));
            for (x, n) in columns {
                let (alpha, half) = if crowded { (0.3 + 0.7 * n as f64 / most, 0.5) } else { (1.0, 1.0) };
                canvas.rect_of((x - half, y + 2.5), (x + half, y + lane_h - 2.5), *color, alpha)?;
            }
            if total > 0 {
                let words = format!("×{}", scale::thousands(total as f64));
                canvas.text(&words, 11.0, GREY, Anchor::Start, (place.right + 6.0, y + 1.0))?;
            }
        }
        canvas.frame((place.left, top), (place.right, bottom), FRAME)
    }

    /// The steps of one line, thinned out to what the eye can tell apart.
    fn path(&self, series: Series, x: Scale, span: (f64, f64), y: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
        let places = self.samples.iter().map(|s| (x.place(self.at(s), span.0, span.1), y(series.value(s))));
        let points: Vec<(f64, f64)> = if self.samples.len() > THIN_BEYOND {
            thin(places, (span.1 - span.0) / (THIN_BEYOND / 4) as f64)
        } else {
            places.collect()
        };
        let mut out: Vec<(f64, f64)> = Vec::with_capacity(points.len() * 2);
        for (px, py) in points {
            if let Some((_, before)) = out.last() {
                out.push((px, *before));
            }
            out.push((px, py));
        }
        out
    }
}

impl Axes {
    pub(super) fn shared(panels: &[Panel<'_>]) -> Self {
        let right_edge = panels.iter().any(|p| p.right_edge);
        let series: Vec<Series> =
            Series::ALL.into_iter().filter(|s| right_edge || *s != Series::RightEdge).collect();
        let most = |position: bool| {
            panels
                .iter()
                .flat_map(|p| series.iter().filter(|s| s.is_position() == position).map(|s| p.most(*s)))
                .fold(0.0, f64::max)
        };
        let (memory, position) = (most(false), most(true));
        // A stream much longer than the buffer would press every other line to the floor.
        let apart = position > 1.6 * memory.max(1.0);
        let first = scale::bytes(if apart { memory } else { memory.max(position) }, 7);
        let xs = || panels.iter().flat_map(|p| p.samples.iter().map(|s| p.at(s)));
        let (mut low, mut high) = (xs().fold(f64::INFINITY, f64::min), xs().fold(0.0, f64::max));
        if !low.is_finite() {
            (low, high) = (0.0, 1.0);
        }
        if high <= low {
            let packets = panels.first().is_none_or(|p| p.x == XAxis::Packet);
            let margin = if packets { 1.0 } else { 1e-3 };
            (low, high) = ((low - margin).max(0.0), high + margin);
        } else if panels.first().is_none_or(|p| p.x == XAxis::Packet) {
            // Half a packet of air keeps the first and last mark off the frame.
            (low, high) = (low - 0.5, high + 0.5);
        }
        Axes { series, x: Scale { low, high }, first, second: apart.then(|| scale::bytes(position, 7)) }
    }

    /// Whether a line belongs to the right-hand axis.
    pub(super) fn on_second(&self, series: Series) -> bool {
        self.second.is_some() && series.is_position()
    }
}

/// Keeps of every column `width` wide the first, the smallest, the largest and the last point, in their order.
fn thin(points: impl Iterator<Item = (f64, f64)>, width: f64) -> Vec<(f64, f64)> {
    let mut out = Vec::new();
    let mut column: Vec<(f64, f64)> = Vec::new();
    let mut end = f64::NEG_INFINITY;
    let mut close = |column: &mut Vec<(f64, f64)>| {
        let extreme = |pick: fn(&f64, &f64) -> bool| {
            let mut best = 0;
            for (i, p) in column.iter().enumerate() {
                if column.get(best).is_some_and(|b| pick(&p.1, &b.1)) {
                    best = i;
                }
            }
            best
        };
        let mut keep = [0, extreme(|a, b| a < b), extreme(|a, b| a > b), column.len().saturating_sub(1)];
        keep.sort_unstable();
        let mut before = None;
        for i in keep {
            if before != Some(i) {
                out.extend(column.get(i));
            }
            before = Some(i);
        }
        column.clear();
    };
    for p in points {
        if p.0 >= end || !p.0.is_finite() {
            close(&mut column);
            end = p.0 + width;
        }
        column.push(p);
    }
    close(&mut column);
    out
}
