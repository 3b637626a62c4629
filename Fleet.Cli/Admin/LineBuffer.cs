using Fleet.Shared.Admin;

namespace Fleet.Cli.Admin;

/// <summary>A line being edited, and where the cursor stands in it. Never longer than a command may be.</summary>
internal sealed class LineBuffer
{
    public string Text { get; private set; } = "";

    public int Cursor { get; private set; }

    public void Insert(string text)
    {
        if (Text.Length + text.Length > CommandWords.MaxLine)
            return;
        Text = Text.Insert(Cursor, text);
        Cursor += text.Length;
    }

    /// <summary>Another line, with the cursor at its end.</summary>
    public void Set(string text) => (Text, Cursor) = (text, text.Length);

    public void MoveTo(int place) => Cursor = Math.Clamp(place, 0, Text.Length);

    public void MoveBy(int places) => MoveTo(Cursor + places);

    /// <summary>Takes out what stands from the cursor to another place.</summary>
    public void DeleteTo(int place)
    {
        place = Math.Clamp(place, 0, Text.Length);
        var (start, end) = (Math.Min(place, Cursor), Math.Max(place, Cursor));
        Text = Text.Remove(start, end - start);
        Cursor = start;
    }

    /// <summary>Puts a word in the place of the one that begins at <paramref name="start"/> and ends at the cursor.</summary>
    public void ReplaceWord(int start, string word)
    {
        DeleteTo(start);
        Insert(word);
    }

    /// <summary>Where the word before the cursor begins.</summary>
    public int WordStart
    {
        get
        {
            var at = Cursor;
            while (at > 0 && Text[at - 1] == ' ')
                at--;
            while (at > 0 && Text[at - 1] != ' ')
                at--;
            return at;
        }
    }

    /// <summary>Where the word after the cursor ends.</summary>
    public int WordEnd
    {
        get
        {
            var at = Cursor;
            while (at < Text.Length && Text[at] == ' ')
                at++;
            while (at < Text.Length && Text[at] != ' ')
                at++;
            return at;
        }
    }
}
