namespace Fleet.Shared.Access;

/// <summary>What a certificate of a cell is good for. The two are never taken for each other.</summary>
public enum CertificateRole
{
    /// <summary>A host's agent: it may dial the link and speak for that host.</summary>
    Host,

    /// <summary>A node of the control plane: it serves the API and the link, and speaks with the other nodes.</summary>
    Scheduler,
}

/// <summary>Whom a certificate of a cell names.</summary>
/// <param name="Role">What it is good for.</param>
/// <param name="Name">The host's id, or the node's name.</param>
/// <param name="Enrolment">Of a host: which of its enrolments this is, from 1; a newer one or its removal makes it worthless.</param>
/// <param name="IssuedAt">From when it counts, a day before it was made.</param>
/// <param name="ExpiresAt">When it ends.</param>
public sealed record CertificateHolder(CertificateRole Role, string Name, uint Enrolment, DateTimeOffset IssuedAt, DateTimeOffset ExpiresAt);
