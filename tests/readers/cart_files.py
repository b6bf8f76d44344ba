"""Writers of small files in the formats that ECG carts export, after the formats' descriptions, not after the readers.

Each takes converter counts of shape (leads, samples) and returns the path; amplitudes are counts times `SCALE` mV.
"""

import base64
import datetime
import struct
import zlib

import numpy as np

STANDARD = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
STORED = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
SCALE = 0.005


def ecg_counts(leads=12, samples=600, seed=0):
    """Beats with noise, the limb leads as they follow from I and II to half a count."""
    random = np.random.default_rng(seed)
    time = np.arange(samples) / 500
    beat = np.exp(-(((time % 0.8) - 0.3) ** 2) / 0.0003) + 0.2 * np.sin(9 * time)
    counts = np.round(np.linspace(0.5, 1.5, leads)[:, None] * 200 * beat + random.normal(0, 3, (leads, samples)))
    counts = counts.astype(np.int64)
    if leads == 12:
        one, two = counts[:2]
        counts[2], counts[3], counts[4], counts[5] = two - one, -(one + two) // 2, one - two // 2, two - one // 2
    return counts


def eight(counts):
    return counts[[0, 1, 6, 7, 8, 9, 10, 11]]


def lzw(data, bits=10):
    table = {bytes([value]): value for value in range(256)}
    codes, word = [], b""
    for value in data:
        longer = word + bytes([value])
        if longer in table:
            word = longer
            continue
        codes.append(table[word])
        if len(table) <= (1 << bits) - 2:
            table[longer] = len(table)
        word = bytes([value])
    codes.append(table[word])
    text = "".join(f"{code:0{bits}b}" for code in codes)
    text += "1" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def xli(counts):
    """Sample n is predicted from the two before it; what is left is stored one place earlier, with an offset of 64."""
    chunks = []
    for x in np.asarray(counts, dtype=np.int64):
        left = 2 * x[1:-1] - x[:-2] - x[2:]
        stored = np.concatenate([x[:2], left[1:] + 64, [64]]).astype(np.int16)
        high_then_low = stored.astype(">i2").tobytes()
        packed = lzw(high_then_low[0::2] + high_then_low[1::2])
        chunks.append(struct.pack("<iHh", len(packed), 0, left[0]) + packed)
    return b"".join(chunks)


def philips_limb_leads(counts):
    """What is stored for III, aVR, aVL and aVF."""
    stored = counts.copy()
    one, two, three, right, left, foot = counts[:6]
    stored[2] = two - one - three
    stored[3] = -right - (one + two) // 2
    stored[4] = (one - three) // 2 - left
    stored[5] = (two + three) // 2 - foot
    return stored


def write_philips(
    folder,
    name="philips.xml",
    counts=None,
    version="1.04",
    packing="XLI",
    differences=True,
    encoding="utf-16",
    **change,
):
    counts = ecg_counts() if counts is None else counts
    stored = philips_limb_leads(counts) if differences else counts
    data = xli(stored) if packing == "XLI" else stored.astype("<i2").tobytes()
    attributes = {"dataencoding": "Base64", "durationperchannel": counts.shape[1] * 2}
    acquisition = "<samplingrate>500</samplingrate><acquisitiontype>STD-12</acquisitiontype>"
    acquisition += "<bitspersample>16</bitspersample><numberchannelsallocated>12</numberchannelsallocated>"
    if version == "1.03":
        acquisition += "<signalresolution>5</signalresolution>"
        attributes |= {"compressmethod": packing, "nbitspersample": 16}
        age = "<years>50</years>"
    else:
        acquisition += "<resolution>5</resolution>"
        attributes |= {"compression": packing, "numberofleads": 12, "leadlabels": " ".join(STANDARD)}
        attributes |= {"samplespersecond": 500, "resolution": 5, "signaloffset": 0, "bitspersample": 16}
        age = "<dateofbirth>1958-06-01</dateofbirth>"
    attributes |= change
    listed = " ".join(f'{key}="{value}"' for key, value in attributes.items())
    text = f"""<?xml version="1.0" encoding="{encoding}"?>
<restingecgdata xmlns="http://www3.medical.philips.com" status="Confirmed">
  <documentinfo><documenttype>PhilipsECG</documenttype><documentversion>{version}</documentversion></documentinfo>
  <reportinfo><reportbandwidth><highpassfiltersetting>0.05</highpassfiltersetting>
    <lowpassfiltersetting>150</lowpassfiltersetting></reportbandwidth></reportinfo>
  <dataacquisition date="2008-12-23" time="19:44:46">
    <machine machineid="1" detaildescription="TC50">PageWriter</machine>
    <signalcharacteristics>{acquisition}</signalcharacteristics></dataacquisition>
  <patient><generalpatientdata><patientid>9999</patientid><name><lastname>Doe</lastname></name>
    <age>{age}</age><sex>Female</sex></generalpatientdata></patient>
  <interpretations><interpretation><severity>- ABNORMAL ECG -</severity>
    <statement><statementcode>SB</statementcode><leftstatement>Sinus bradycardia</leftstatement>
      <rightstatement>rate&lt;60</rightstatement></statement></interpretation></interpretations>
  <waveforms><parsedwaveforms {listed}>{base64.encodebytes(data).decode()}</parsedwaveforms></waveforms>
</restingecgdata>
"""
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def write_muse(folder, name="muse.xml", counts=None, names=STORED, offsets=None, **change):
    counts = eight(ecg_counts()) if counts is None else counts
    leads = []
    for row, (lead, x) in enumerate(zip(names, counts, strict=True)):
        data = x.astype("<i2").tobytes()
        fields = {
            "LeadTimeOffset": 0 if offsets is None else offsets[row],
            "LeadSampleCountTotal": len(x),
            "LeadAmplitudeUnitsPerBit": SCALE * 1000,
            "LeadAmplitudeUnits": "MICROVOLTS",
            "LeadID": lead,
            "LeadSampleSize": 2,
            "LeadOff": "FALSE",
            "LeadDataCRC32": zlib.crc32(data),
            "WaveFormData": "\n" + base64.encodebytes(data).decode(),
        } | change
        leads.append(
            "<LeadData>" + "".join(f"<{key}>{value}</{key}>" for key, value in fields.items()) + "</LeadData>"
        )
    body = "<SampleBase>500</SampleBase><SampleExponent>0</SampleExponent><LowPassFilter>150</LowPassFilter>"
    body += "<HighPassFilter>16</HighPassFilter>"
    median = "".join(leads).replace(">I<", ">V9<")
    text = f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<!DOCTYPE RestingECG SYSTEM "restecg.dtd">
<RestingECG>
<MuseInfo><MuseVersion>9.0.9</MuseVersion></MuseInfo>
<PatientDemographics><PatientID>P77</PatientID><PatientAge>60</PatientAge><AgeUnits>YEARS</AgeUnits>
<Gender>MALE</Gender><PatientLastName>DOE</PatientLastName></PatientDemographics>
<TestDemographics><AcquisitionDevice>MAC55</AcquisitionDevice><Status>CONFIRMED</Status>
<AcquisitionTime>13:15:18</AcquisitionTime><AcquisitionDate>05-10-2021</AcquisitionDate></TestDemographics>
<Diagnosis><DiagnosisStatement><StmtText>Sinus rhythm</StmtText></DiagnosisStatement>
<DiagnosisStatement><StmtFlag>ENDSLINE</StmtFlag><StmtText>with pauses</StmtText></DiagnosisStatement>
<DiagnosisStatement><StmtFlag>ENDSLINE</StmtFlag><StmtText>Abnormal ECG</StmtText></DiagnosisStatement></Diagnosis>
<Waveform><WaveformType>Median</WaveformType>{body}{median}</Waveform>
<Waveform><WaveformType>Rhythm</WaveformType>{body}{"".join(leads)}</Waveform>
</RestingECG>
"""
    (folder / name).write_bytes(text.encode("iso-8859-1"))
    return folder / name


def hl7_sequence(code, value):
    return f'<component><sequence><code code="{code}"/>{value}</sequence></component>'


def hl7_series(counts, names, head="20021122091000.000", increment=("0.002", "s"), unit="uV", kind="RHYTHM", extra=""):
    number, unit_of_time = increment
    parts = [
        hl7_sequence(
            "TIME_ABSOLUTE",
            f'<value xsi:type="GLIST_TS"><head value="{head}"/>'
            f'<increment value="{number}" unit="{unit_of_time}"/></value>',
        )
    ]
    scale = {"uV": SCALE * 1000, "mV": SCALE, "nV": SCALE * 1e6}.get(unit, 1)
    for lead, x in zip(names, counts, strict=True):
        digits = "\n".join(" ".join(map(str, x[start : start + 20])) for start in range(0, len(x), 20))
        parts.append(
            hl7_sequence(
                f"MDC_ECG_LEAD_{lead.upper()}",
                f'<value xsi:type="SLIST_PQ"><origin value="0" unit="{unit}"/><scale value="{scale:g}" unit="{unit}"/>'
                f"<digits>{digits}</digits></value>",
            )
        )
    return f"""<component><series><code code="{kind}"/><effectiveTime><low value="{head}"/></effectiveTime>
<author><seriesAuthor><manufacturedSeriesDevice><manufacturerModelName>ELI250</manufacturerModelName>
</manufacturedSeriesDevice><manufacturerOrganization><name>Mortara</name></manufacturerOrganization></seriesAuthor></author>
<component><sequenceSet>{"".join(parts)}{extra}</sequenceSet></component>
<subjectOf><annotationSet><component><annotation><code code="MDC_ECG_INTERPRETATION"/>
<component><annotation><code code="MDC_ECG_INTERPRETATION_STATEMENT"/><value xsi:type="ST">Normal ECG</value>
</annotation></component></annotation></component></annotationSet></subjectOf></series></component>"""


def write_hl7(folder, name="aecg.xml", counts=None, names=STANDARD, series=None, **options):
    counts = ecg_counts() if counts is None else counts
    series = hl7_series(counts, names, **options) if series is None else series
    text = f"""<?xml version="1.0" encoding="utf-8"?>
<!-- an example, < and > in a comment -->
<AnnotatedECG xmlns="urn:hl7-org:v3" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" type="Observation">
<componentOf><timepointEvent><componentOf><subjectAssignment><subject><trialSubject><id extension="SBJ-1"/>
<subjectDemographicPerson><name>Clark</name><administrativeGenderCode code="M"/><birthTime value="19530508"/>
</subjectDemographicPerson></trialSubject></subject></subjectAssignment></componentOf></timepointEvent></componentOf>
{series}</AnnotatedECG>
"""
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def write_schiller(folder, name="schiller.xml", counts=None, names=STANDARD, **change):
    counts = ecg_counts() if counts is None else counts

    def wave(kind, leads):
        channels = []
        for lead, x in leads:
            fields = {"name": lead.upper(), "data": ",".join(map(str, x)), "datastype": "COMMASEPARATE"}
            fields |= {"samplecount": len(x)} | change
            channels.append("<channel>" + "".join(f"<{k}>{v}</{k}>" for k, v in fields.items()) + "</channel>")
        return f"""<wavedata><type>{kind}</type><resolution>
<samplerate><exponent>1</exponent><value>500</value></samplerate>
<yres><unitperbit>{SCALE * 1000}</unitperbit><units>UV</units></yres></resolution>{"".join(channels)}</wavedata>"""

    pairs = list(zip(names, counts, strict=True))
    text = f"""<?xml version="1.0" encoding="UTF-8"?>
<com.xiriuz.sema.xml.schillerEDI.SchillerEDI>
<patdata><id>42</id><lastname>Doe</lastname><birthdate>19500101</birthdate><gender>MALE</gender></patdata>
<examdescript><startdatetime><date>20060502</date><time>140610000</time></startdatetime><aquiringdevice><hardware>
<vendor>Schiller</vendor><type>AT-110</type><model>AT-110</model></hardware></aquiringdevice></examdescript>
<eventdata><event>{wave("ECG_AVERAGES", [(k, x[:50]) for k, x in pairs[:0]])}{wave("ECG_RHYTHMS", pairs)}
<filters_data><filter><name>HIGHPASS_CUTOFF_FREQ</name><value>0.05</value></filter></filters_data>
<textdata><type>INTERPRETATION</type><textdata>Sinus rhythm
Left axis</textdata></textdata></event></eventdata>
</com.xiriuz.sema.xml.schillerEDI.SchillerEDI>
"""
    (folder / name).write_text(text, encoding="utf-8-sig")
    return folder / name


def dicom_group(counts, names, scheme="MDC", start=0, bits=16, unit="uV", sensitivity=SCALE * 1000, **change):
    from pydicom.dataset import Dataset

    numbers = dict(zip(STORED, range(1, 9), strict=True)) | {"III": 61, "aVR": 62, "aVL": 63, "aVF": 64}
    group = Dataset()
    group.MultiplexGroupTimeOffset = start
    group.WaveformOriginality = "ORIGINAL"
    group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = counts.shape
    group.SamplingFrequency = 500
    group.ChannelDefinitionSequence = []
    for lead in names:
        source, units, channel = Dataset(), Dataset(), Dataset()
        if scheme == "words":
            source.CodeValue, source.CodingSchemeDesignator, source.CodeMeaning = (
                "X",
                "99LOCAL",
                f"Lead {lead} (Einthoven)",
            )
        else:
            code = f"2:{numbers[lead]}" if scheme == "MDC" else f"5.6.3-9-{numbers[lead]}"
            source.CodeValue, source.CodingSchemeDesignator, source.CodeMeaning = code, scheme, "a lead"
        units.CodeValue, units.CodingSchemeDesignator, units.CodeMeaning = unit, "UCUM", unit
        channel.ChannelSourceSequence = [source]
        if sensitivity is not None:
            channel.ChannelSensitivity = sensitivity
            channel.ChannelSensitivityUnitsSequence = [units]
            channel.ChannelSensitivityCorrectionFactor, channel.ChannelBaseline = 1, 0
        channel.WaveformBitsStored = bits
        group.ChannelDefinitionSequence.append(channel)
    group.WaveformBitsAllocated = bits
    group.WaveformSampleInterpretation = {16: "SS", 32: "SL", 8: "SB"}[bits]
    group.WaveformData = np.ascontiguousarray(counts.T).astype({16: "<i2", 32: "<i4", 8: "i1"}[bits]).tobytes()
    for key, value in change.items():
        setattr(group, key, value)
    return group


def write_dicom(folder, name="ecg.dcm", counts=None, names=STANDARD, groups=None, implicit=False, **options):
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset

    counts = ecg_counts() if counts is None else counts
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1"
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.9.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientName, dataset.PatientID, dataset.PatientSex, dataset.PatientAge = "Doe^J", "D1", "F", "045Y"
    dataset.AcquisitionDateTime, dataset.Manufacturer = "20211122091000", "Acme"
    note = Dataset()
    note.UnformattedTextValue = "Sinus rhythm"
    dataset.WaveformAnnotationSequence = [note]
    dataset.WaveformSequence = [dicom_group(counts, names, **options)] if groups is None else groups
    pydicom.dcmwrite(folder / name, dataset, enforce_file_format=True)
    return folder / name


def write_edf(
    folder, name="ecg.edf", counts=None, labels=("ECG I", "ECG II", "V1"), unit="mV", others=True, **options
):
    import edfio

    counts = ecg_counts(len(labels), 1000) if counts is None else counts
    scale = {"mV": SCALE, "uV": SCALE * 1000}.get(unit, 1)
    signals = [
        edfio.EdfSignal.from_digital(
            x.astype(np.int16),
            500,
            label=label,
            physical_dimension=unit,
            physical_range=(-2000 * scale, 2000 * scale),
            digital_range=(-2000, 2000),
            prefiltering="HP:0.05Hz",
        )
        for label, x in zip(labels, counts, strict=True)
    ]
    if others:
        signals.append(
            edfio.EdfSignal(np.arange(counts.shape[1] // 5) % 7.0, 100, label="Resp", physical_dimension="%")
        )
        signals.append(
            edfio.EdfSignal(np.arange(counts.shape[1] // 5) % 5.0, 100, label="EEG Fpz", physical_dimension="uV")
        )
    edfio.Edf(
        signals,
        patient=edfio.Patient(code="E1", sex="F", birthdate=datetime.date(1960, 5, 1), name="Doe"),
        recording=edfio.Recording(startdate=datetime.date(2020, 1, 2), equipment_code="Cart7"),
        starttime=datetime.time(10, 20, 30),
        annotations=[edfio.EdfAnnotation(1.0, None, "AF")],
        **{"data_record_duration": 0.2, **options},
    ).write(folder / name)
    return folder / name
