namespace Fleet.Cli.Admin;

/// <summary>A terminal as the editor needs it.</summary>
internal interface ITerminal
{
    /// <summary>Columns.</summary>
    int Width { get; }

    /// <summary>The next key; waits for it. Null: there are no more.</summary>
    ConsoleKeyInfo? ReadKey();

    void Write(string text);
}

/// <summary>
/// Reads a line with editing, history and completion. Ours, because the one library for it that can be had is an unfinished preview from 2022
/// that does not load beside the packages used here.
/// </summary>
internal sealed class LineEditor(ITerminal terminal, History history, Func<string, Completion> complete)
{
    private const char CtrlC = (char)3;

    /// <summary>The line; null when there will be none any more (Ctrl-D on an empty one).</summary>
    public string? Read(string prompt)
    {
        var buffer = new LineBuffer();
        // Place 0 is the line being written; 1 and up is how far back in the history.
        var (back, written) = (0, "");
        var listed = false;
        while (true)
        {
            Draw(prompt, buffer);
            if (terminal.ReadKey() is not { } key)
                return null;
            if (key.Key != ConsoleKey.Tab)
                listed = false;
            switch (Action(key))
            {
                case Edit.Accept:
                    terminal.Write("\r\n");
                    return buffer.Text;
                case Edit.GiveUp:
                    terminal.Write("^C\r\n");
                    return "";
                case Edit.End when buffer.Text.Length == 0:
                    terminal.Write("\r\n");
                    return null;
                case Edit.End or Edit.Delete:
                    buffer.DeleteTo(buffer.Cursor + 1);
                    break;
                case Edit.Backspace:
                    buffer.DeleteTo(buffer.Cursor - 1);
                    break;
                case Edit.DeleteWord:
                    buffer.DeleteTo(buffer.WordStart);
                    break;
                case Edit.DeleteToStart:
                    buffer.DeleteTo(0);
                    break;
                case Edit.DeleteToEnd:
                    buffer.DeleteTo(buffer.Text.Length);
                    break;
                case Edit.Left:
                    buffer.MoveBy(-1);
                    break;
                case Edit.Right:
                    buffer.MoveBy(1);
                    break;
                case Edit.WordLeft:
                    buffer.MoveTo(buffer.WordStart);
                    break;
                case Edit.WordRight:
                    buffer.MoveTo(buffer.WordEnd);
                    break;
                case Edit.Start:
                    buffer.MoveTo(0);
                    break;
                case Edit.Finish:
                    buffer.MoveTo(buffer.Text.Length);
                    break;
                case Edit.Earlier when back < history.Count:
                    if (back++ == 0)
                        written = buffer.Text;
                    buffer.Set(history.Back(back));
                    break;
                case Edit.Later when back > 0:
                    buffer.Set(--back == 0 ? written : history.Back(back));
                    break;
                case Edit.Complete:
                    listed = Complete(buffer, listed);
                    break;
                case Edit.Clear:
                    terminal.Write("\x1b[H\x1b[2J");
                    break;
                case Edit.Insert when !char.IsControl(key.KeyChar):
                    buffer.Insert(key.KeyChar.ToString());
                    break;
            }
        }
    }

    private enum Edit
    {
        Insert, Accept, GiveUp, End, Delete, Backspace, DeleteWord, DeleteToStart, DeleteToEnd, Left, Right, WordLeft, WordRight, Start, Finish, Earlier, Later,
        Complete, Clear,
    }

    public static bool IsCtrlC(ConsoleKeyInfo key) =>
        key.KeyChar == CtrlC || (key.Key == ConsoleKey.C && key.Modifiers.HasFlag(ConsoleModifiers.Control));

    private static Edit Action(ConsoleKeyInfo key)
    {
        if (IsCtrlC(key))
            return Edit.GiveUp;
        var control = key.Modifiers.HasFlag(ConsoleModifiers.Control);
        if (key.Modifiers.HasFlag(ConsoleModifiers.Alt) && key.Key is ConsoleKey.B or ConsoleKey.F)
            return key.Key == ConsoleKey.B ? Edit.WordLeft : Edit.WordRight;
        return key.Key switch
        {
            ConsoleKey.Enter => Edit.Accept,
            ConsoleKey.Tab => Edit.Complete,
            ConsoleKey.Backspace => control ? Edit.DeleteWord : Edit.Backspace,
            ConsoleKey.Delete => Edit.Delete,
            ConsoleKey.LeftArrow => control ? Edit.WordLeft : Edit.Left,
            ConsoleKey.RightArrow => control ? Edit.WordRight : Edit.Right,
            ConsoleKey.UpArrow => Edit.Earlier,
            ConsoleKey.DownArrow => Edit.Later,
            ConsoleKey.Home => Edit.Start,
            ConsoleKey.End => Edit.Finish,
            ConsoleKey.D when control => Edit.End,
            ConsoleKey.A when control => Edit.Start,
            ConsoleKey.E when control => Edit.Finish,
            ConsoleKey.B when control => Edit.Left,
            ConsoleKey.F when control => Edit.Right,
            ConsoleKey.P when control => Edit.Earlier,
            ConsoleKey.N when control => Edit.Later,
            ConsoleKey.K when control => Edit.DeleteToEnd,
            ConsoleKey.U when control => Edit.DeleteToStart,
            ConsoleKey.W when control => Edit.DeleteWord,
            ConsoleKey.L when control => Edit.Clear,
            // Some terminals send a bare line feed or a Ctrl-J or Ctrl-M for the return key.
            _ => key.KeyChar is '\r' or '\n' ? Edit.Accept : Edit.Insert,
        };
    }

    /// <summary>Goes as far as all candidates agree; when that is no step, the second time lists them. True when the next time lists.</summary>
    private bool Complete(LineBuffer buffer, bool again)
    {
        var found = complete(buffer.Text[..buffer.Cursor]);
        if (found.Candidates.Count == 0)
            return false;
        if (found.Candidates.Count == 1)
        {
            buffer.ReplaceWord(found.Start, found.Candidates[0] + " ");
            return false;
        }
        if (found.Shared.Length > buffer.Cursor - found.Start)
        {
            buffer.ReplaceWord(found.Start, found.Shared);
            return true;
        }
        if (again)
            terminal.Write($"\r\n{string.Join("  ", found.Candidates)}\r\n");
        return true;
    }

    /// <summary>The prompt and as much of the line, around the cursor, as fits into one row.</summary>
    private void Draw(string prompt, LineBuffer buffer)
    {
        var room = Math.Max(8, terminal.Width - prompt.Length - 1);
        var first = Math.Max(0, buffer.Cursor - room);
        var shown = buffer.Text[first..Math.Min(buffer.Text.Length, first + room)];
        var column = prompt.Length + buffer.Cursor - first;
        terminal.Write($"\r{prompt}{shown}\x1b[K\r{(column > 0 ? $"\x1b[{column}C" : "")}");
    }
}
