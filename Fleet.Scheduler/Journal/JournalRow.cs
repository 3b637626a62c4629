namespace Fleet.Scheduler.Journal;

/// <summary>One event on its way into the journal.</summary>
/// <param name="PersistenceId">Whose it is.</param>
/// <param name="SequenceNr">Its number there, from 1.</param>
/// <param name="Message">As its serializer wrote it.</param>
/// <param name="Serializer">Number of the serializer.</param>
/// <param name="Manifest">What the serializer calls its type.</param>
internal readonly record struct JournalRow(string PersistenceId, long SequenceNr, byte[] Message, int Serializer, string Manifest);

/// <summary>One event as the journal has it.</summary>
/// <param name="Offset">Its place in the order of all.</param>
/// <param name="Row">The event.</param>
internal readonly record struct StoredRow(long Offset, JournalRow Row);
