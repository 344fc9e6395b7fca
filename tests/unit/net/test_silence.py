from relay.net.silence import QUERIES_MIN, SILENT_S, Silence


def test_no_question_no_silence():
    silence = Silence()
    for second in range(100):
        silence.note(7, 5, 0, float(second))
        assert not silence.silent


def test_it_takes_several_questions_and_a_while():
    silence = Silence()
    silence.note(10, 10, 0, 0.0)
    silence.note(10 + QUERIES_MIN - 1, 10, 2, 1.0)
    silence.note(10 + QUERIES_MIN - 1, 10, 0, 60.0)
    assert not silence.silent
    silence.note(10 + QUERIES_MIN, 10, 1, 60.1)
    assert silence.silent
    silence.note(100, 11, 0, 60.2)
    assert not silence.silent
    silence.note(200, 11, 100, 70.0)
    silence.note(200, 11, 0, 70.0 + SILENT_S - 0.01)
    assert not silence.silent
    silence.note(200, 11, 0, 70.0 + SILENT_S)
    assert silence.silent


def test_questions_asked_just_before_the_last_answer_count_too():
    silence = Silence()
    silence.note(20, 10, QUERIES_MIN, 0.0)
    assert not silence.silent
    silence.note(20, 10, 0, SILENT_S)
    assert silence.silent
