//! Draws everything on whatever room there is.

use jiff::Timestamp;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Clear, Paragraph};

use super::rows::{Row, Tone, age, fit};
use super::{Daemon, Pane, Top};
use crate::text::harmless;

/// Narrower or lower than this, one pane is shown at a time.
const TWO_COLUMNS: u16 = 76;
const ALL_PANES: u16 = 18;
/// An answer to an order is shown for so many seconds.
const NOTICE_S: i64 = 8;

/// How it may look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Colors may be used: `NO_COLOR` is not set.
    pub(crate) color: bool,
}

impl Look {
    fn style(self, tone: Tone) -> Style {
        let style = Style::new();
        match tone {
            Tone::Plain => style,
            Tone::Strong => style.add_modifier(Modifier::BOLD),
            Tone::Quiet => style.add_modifier(Modifier::DIM),
            Tone::Bad if !self.color => style.add_modifier(Modifier::BOLD),
            Tone::Good | Tone::Warn | Tone::Test if !self.color => style,
            Tone::Good => style.fg(Color::Green),
            Tone::Warn => style.fg(Color::Yellow),
            Tone::Bad => style.fg(Color::Red).add_modifier(Modifier::BOLD),
            Tone::Test => style.fg(Color::Cyan),
        }
    }

    fn line(self, row: &Row) -> Line<'static> {
        Line::from_iter(row.parts.iter().map(|(text, tone)| Span::styled(text.clone(), self.style(*tone))))
    }
}

/// Draws it as it is now.
pub(crate) fn draw(top: &mut Top, frame: &mut Frame<'_>, look: Look, now: Timestamp) {
    let needs = top.needs(now);
    // On a low screen the panes need the room more.
    let room = if frame.area().height >= ALL_PANES { 4 } else { 1 };
    let n_needs = u16::try_from(needs.len().clamp(1, room)).unwrap_or(1);
    let rows = [Constraint::Length(1), Constraint::Length(n_needs), Constraint::Min(0), Constraint::Length(1)];
    let [head, person, body, foot] = Layout::vertical(rows).areas(frame.area());
    frame.render_widget(header(top, look, head.width, now), head);
    frame.render_widget(Paragraph::new(needs_lines(&needs, n_needs.into(), look)), person);
    panes(top, frame, body, look, now);
    frame.render_widget(footer(top, look, now), foot);
    overlay(top, frame, look);
}

fn header(top: &Top, look: Look, width: u16, now: Timestamp) -> Line<'static> {
    let (daemon, tone) = match &top.daemon {
        Daemon::Looking => ("looking for a daemon …".to_owned(), Tone::Quiet),
        Daemon::Up => ("● daemon".to_owned(), Tone::Good),
        Daemon::Away(since) => (format!("✗ no daemon for {}", age(now, *since)), Tone::Bad),
    };
    // On a narrow screen what is being done needs the room more.
    let clock = if width < TWO_COLUMNS { String::new() } else { now.strftime("  %H:%M:%S UTC").to_string() };
    let right = format!("  {daemon}{clock}");
    let room = usize::from(width).saturating_sub(Span::raw(&*right).width());
    let left = fit(&format!("Steadfast  {}", harmless(&top.doing())), room);
    Line::from(vec![
        Span::styled(left, look.style(Tone::Strong)),
        Span::styled(format!("  {daemon}"), look.style(tone)),
        Span::styled(clock, look.style(Tone::Quiet)),
    ])
}

fn needs_lines(needs: &[String], room: usize, look: Look) -> Vec<Line<'static>> {
    if needs.is_empty() {
        return vec![Line::styled("✓ Nothing needs you.", look.style(Tone::Good))];
    }
    let n_over = needs.len().saturating_sub(room);
    let line = |(at, need): (usize, &String)| {
        let more = if at + 1 == room && n_over > 0 { format!("  (and {n_over} more)") } else { String::new() };
        Line::styled(format!("⚠ {}{more}", harmless(need).replace('\n', " ")), look.style(Tone::Bad))
    };
    needs.iter().take(room).enumerate().map(line).collect()
}

/// The panes that have room.
fn panes(top: &mut Top, frame: &mut Frame<'_>, area: Rect, look: Look, now: Timestamp) {
    if area.width < TWO_COLUMNS || area.height < ALL_PANES - 4 {
        let [tabs, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
        let tab = |pane: Pane| {
            let style = if pane == top.focus { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
            [Span::styled(format!(" {} ", pane.title()), style), Span::raw(" ")]
        };
        frame.render_widget(Line::from_iter(Pane::ALL.into_iter().flat_map(tab)), tabs);
        return pane(top, frame, body, top.focus, look, now);
    }
    let [left, right] = Layout::horizontal([Constraint::Percentage(58), Constraint::Percentage(42)]).areas::<2>(area);
    let [sessions, events] = Layout::vertical([Constraint::Percentage(55), Constraint::Fill(1)]).areas(left);
    let n_models = u16::try_from(top.rows(Pane::Models, 0, now).len()).unwrap_or(u16::MAX);
    let sizes = [
        Constraint::Max(n_models.saturating_add(2)),
        Constraint::Length(7),
        // However many models there are, the outbox shows its first entries.
        Constraint::Min(if area.height > 20 { 5 } else { 3 }),
    ];
    let [models, rates, outbox] = Layout::vertical(sizes).areas(right);
    for (which, area) in [
        (Pane::Sessions, sessions),
        (Pane::Events, events),
        (Pane::Models, models),
        (Pane::Rates, rates),
        (Pane::Outbox, outbox),
    ] {
        pane(top, frame, area, which, look, now);
    }
}

fn pane(top: &Top, frame: &mut Frame<'_>, area: Rect, pane: Pane, look: Look, now: Timestamp) {
    let is_focused = pane == top.focus;
    let count = match (pane, &top.status) {
        (Pane::Outbox, Some((status, _))) => format!(", {} undelivered", status.outbox.undelivered),
        (Pane::Sessions | Pane::Events | Pane::Models | Pane::Rates | Pane::Outbox, _) => String::new(),
    };
    let title = Span::styled(
        format!(" {}{count} ", pane.title()),
        if is_focused { Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED) } else { Style::new() },
    );
    let block = Block::bordered()
        .title(title)
        .border_type(if is_focused { BorderType::Thick } else { BorderType::Plain })
        .border_style(if is_focused { Style::new() } else { look.style(Tone::Quiet) });
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let rows = top.rows(pane, inner.width.into(), now);
    let n_chosen = top.chosen(pane).min(top.n_rows(pane).saturating_sub(1));
    let chosen = rows.iter().enumerate().filter(|(_, row)| row.can_be_chosen).nth(n_chosen).map(|(at, _)| at);
    let height = usize::from(inner.height);
    // The chosen row is seen, and what belongs to it below it as far as there is room.
    let first = chosen.map_or(0, |at| if at < height { 0 } else { at + 1 - height });
    let line = |(at, row): (usize, &Row)| {
        let line = look.line(row);
        let marks_it = chosen == Some(at) && (is_focused || pane == Pane::Sessions);
        match (marks_it, is_focused) {
            (true, true) => line.style(Style::new().add_modifier(Modifier::REVERSED)),
            (true, false) => line.style(Style::new().add_modifier(Modifier::UNDERLINED)),
            (false, _) => line,
        }
    };
    let lines: Vec<Line<'_>> = rows.iter().enumerate().skip(first).take(height).map(line).collect();
    frame.render_widget(Paragraph::new(lines), inner);
}

fn footer(top: &Top, look: Look, now: Timestamp) -> Line<'static> {
    if top.is_typing {
        return Line::from(format!("/{}▏  Enter keeps it, Esc shows all again", harmless(&top.filter)));
    }
    let fresh = top.notice.as_ref().filter(|(_, since)| now.as_second() - since.as_second() < NOTICE_S);
    if let Some((notice, _)) = fresh {
        return Line::styled(format!(" {} ", harmless(notice).replace('\n', " ")), look.style(Tone::Strong));
    }
    let filter = match top.filter.as_str() {
        "" => String::new(),
        filter => format!("only \"{}\" (Esc: all)  ", harmless(filter)),
    };
    let keys = match top.focus {
        Pane::Sessions => "Enter open  c cancel  r retry  u resume",
        Pane::Models => "Enter open  b reset breaker  B reset all",
        Pane::Outbox => "Enter open  f deliver now",
        Pane::Events | Pane::Rates => "Enter open",
    };
    Line::from(vec![
        Span::styled(filter, look.style(Tone::Strong)),
        Span::styled(format!("Tab pane  ↑↓ move  {keys}  / filter  ? help  q quit"), look.style(Tone::Quiet)),
    ])
}

fn overlay(top: &mut Top, frame: &mut Frame<'_>, look: Look) {
    let Some(overlay) = &mut top.overlay else { return };
    let whole = frame.area();
    let wanted = u16::try_from(overlay.lines.len()).unwrap_or(u16::MAX).saturating_add(2);
    let is_small = overlay.session.is_none();
    let margin = if whole.width > 60 { 4 } else { 0 };
    let width = if is_small { 90.min(whole.width) } else { whole.width.saturating_sub(margin) };
    let height = if is_small && overlay.asks.is_none() {
        wanted.saturating_add(2).min(whole.height)
    } else if is_small {
        (wanted + 2).min(whole.height)
    } else {
        whole.height.saturating_sub(margin / 2)
    };
    let area = Rect { x: whole.x + (whole.width - width) / 2, y: whole.y + (whole.height - height) / 2, width, height };
    let keys = if overlay.asks.is_some() { " y yes  n no " } else { " ↑↓ move  Esc close " };
    let block = Block::bordered()
        .border_type(BorderType::Thick)
        .title(Span::styled(format!(" {} ", harmless(&overlay.title)), look.style(Tone::Strong)))
        .title_bottom(keys);
    let inner = block.inner(area);
    let lines = wrapped(&overlay.lines, inner.width.into());
    let last = lines.len().saturating_sub(inner.height.into());
    overlay.scrolled = if overlay.is_at_end { last } else { overlay.scrolled.min(last) };
    let shown = lines.into_iter().skip(overlay.scrolled).take(inner.height.into()).map(Line::raw);
    frame.render_widget(Clear, area);
    frame.render_widget(block, area);
    frame.render_widget(Paragraph::new(shown.collect::<Vec<_>>()), inner);
}

/// Lines that are too long go on below; what was aligned stays so where it fits.
fn wrapped(lines: &[String], width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut out = Vec::with_capacity(lines.len());
    for line in lines {
        let line = harmless(line);
        if line.is_ascii() && line.len() <= width {
            out.push(line);
            continue;
        }
        let (mut part, mut used) = (String::new(), 0);
        for c in line.chars() {
            let mut buffer = [0; 4];
            let wide = Span::raw(&*c.encode_utf8(&mut buffer)).width();
            if used + wide > width && !part.is_empty() {
                out.push(std::mem::take(&mut part));
                used = 0;
            }
            part.push(c);
            used += wide;
        }
        out.push(part);
    }
    out
}
