using System.Globalization;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;

namespace Fleet.Shared.Access;

/// <summary>
/// How a certificate's subject says whom it names: the organisation is the role (<c>fleet:host</c>, <c>fleet:scheduler</c>), the
/// common name is the name, and the organisational unit of a host is its enrolment.
/// </summary>
public static class CertificateSubject
{
    private const string RolePrefix = "fleet:";
    private const string EnrolmentPrefix = "enrolment:";
    private const string OrganizationOid = "2.5.4.10", UnitOid = "2.5.4.11", NameOid = "2.5.4.3";

    /// <summary>The subject that says so.</summary>
    public static X500DistinguishedName Write(CertificateRole role, string name, uint enrolment = 0)
    {
        var subject = new X500DistinguishedNameBuilder();
        subject.AddOrganizationName(RolePrefix + (role == CertificateRole.Host ? "host" : "scheduler"));
        if (role == CertificateRole.Host)
            subject.AddOrganizationalUnitName(string.Create(CultureInfo.InvariantCulture, $"{EnrolmentPrefix}{enrolment}"));
        subject.AddCommonName(name);
        return subject.Build();
    }

    /// <summary>Whom the subject names; null when it is none of ours. Says nothing about who signed it.</summary>
    public static CertificateHolder? Read(X509Certificate2 certificate)
    {
        ArgumentNullException.ThrowIfNull(certificate);
        string? organization = null, unit = null, name = null;
        try
        {
            foreach (var part in certificate.SubjectName.EnumerateRelativeDistinguishedNames())
            {
                if (part.HasMultipleElements)
                    return null;
                var value = part.GetSingleElementValue();
                switch (part.GetSingleElementType().Value)
                {
                    case OrganizationOid when organization is null:
                        organization = value;
                        break;
                    case UnitOid when unit is null:
                        unit = value;
                        break;
                    case NameOid when name is null:
                        name = value;
                        break;
                    default:
                        return null;
                }
            }
        }
        catch (CryptographicException)
        {
            return null;
        }
        if (string.IsNullOrEmpty(name))
            return null;
        return (organization, unit) switch
        {
            (RolePrefix + "scheduler", null) => Holder(CertificateRole.Scheduler, 0),
            (RolePrefix + "host", not null) when unit.StartsWith(EnrolmentPrefix, StringComparison.Ordinal)
                && uint.TryParse(unit.AsSpan(EnrolmentPrefix.Length), NumberStyles.None, CultureInfo.InvariantCulture, out var enrolment) =>
                Holder(CertificateRole.Host, enrolment),
            _ => null,
        };

        CertificateHolder Holder(CertificateRole role, uint enrolment) => new(role, name, enrolment,
            new DateTimeOffset(certificate.NotBefore.ToUniversalTime(), TimeSpan.Zero), new DateTimeOffset(certificate.NotAfter.ToUniversalTime(), TimeSpan.Zero));
    }
}
