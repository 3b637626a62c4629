namespace Fleet.Chaos.Checking;

/// <summary>
/// What the API may answer to the load: a create is taken or put off, also one that is repeated; nothing is unknown that nobody deleted; and a fault is
/// told as such that can be tried again, never as a fault of the control plane.
/// </summary>
internal static class Answers
{
    public const string Rule = "wrong_answer";

    public static IEnumerable<Violation> Check(History history)
    {
        var deletes = history.Requests.Where(request => request is { Verb: Verb.Delete, Vm: not null })
            .GroupBy(request => request.Vm!, StringComparer.Ordinal).ToDictionary(sent => sent.Key, sent => sent.Min(request => request.SentMs), StringComparer.Ordinal);
        return history.Requests.Where(request => !MayBe(request, deletes))
            .Select(request => new Violation(Rule, request.Vm ?? request.Key, $"{request.Verb} sent at {request.SentMs} ms was answered {request.Status} ({request.Detail}) at {request.AnsweredMs} ms"));
    }

    private static bool MayBe(ClientRequest request, Dictionary<string, long> deletes) => request.Status switch
    {
        // Nobody answered.
        0 or 503 or (>= 200 and < 300) => true,
        404 => request is { Verb: not Verb.Create, Vm: { } vm } && deletes.TryGetValue(vm, out var sent) && sent <= request.AnsweredMs,
        // It is on its way out: nothing can be stopped that is being deleted; and only what runs can be suspended, only what is suspended resumed.
        409 => request.Verb is Verb.Stop or Verb.Suspend or Verb.Resume,
        _ => false,
    };
}
