r"""Whether two answers are the same: a table for each kind, with right values and their wrong neighbours.

False credit is the worse mistake, so each kind has more neighbours than right values.
"""

import pytest

from mel_ray.records.question import Truth
from mel_ray.rewards.judge import judge_answer
from mel_ray.rewards.math_answer import equivalent

RIGHT, WRONG = True, False


def table(*rows):
    """Each row: truth, right answers, wrong answers."""
    cases = []
    for truth, right, wrong in rows:
        cases += [(truth, answer, RIGHT) for answer in right] + [(truth, answer, WRONG) for answer in wrong]
    return pytest.mark.parametrize(("truth", "answer", "same"), cases)


def outcome(answer, truth, **keys):
    """The outcome for a response with the answer in a box."""
    return judge_answer(f"So the answer is $\\boxed{{{answer}}}$.", Truth(truth, **keys), ("boxed",))["outcome"]


@table(
    ("2", ["2", "2.0", "2 \\text{ m}"], ["2m", "2n", "2x", "m", "3", "2 m n", "2k+0m", "-2", "20", "2^2"]),
    ("3n+2m", ["2m+3n", "3n + 2m", "m+3n+m"], ["3n+2", "3n", "3n+2k", "3m+2n", "3+2", "5nm", "3n-2m"]),
    ("2m", ["2m", "m+m", "2\\cdot m"], ["2", "2n", "2M", "2m^2", "m", "3m"]),
    ("5s", ["5s"], ["5t", "5s^2", "s"]),
    ("a+b", ["b+a"], ["a", "b", "a-b", "ab", "a+c", "A+B"]),
    ("40 \\text{ a}, 60 \\text{ b}", ["40 \\text{ a}, 60 \\text{ b}", "60 \\text{ b}, 40 \\text{ a}"],
     ["40 \\text{ a}, 50 \\text{ b}", "40 \\text{ a}", "60 \\text{ b}", "50 \\text{ a}, 60 \\text{ b}",
      "40 \\text{ a}, 60 \\text{ b}, 70 \\text{ c}", "60 \\text{ a}, 40 \\text{ b}"]),
    ("40 \\text{ cm}, 60 \\text{ kg}", ["40, 60", "40 \\text{ cm}, 60 \\text{ kg}"],
     ["40 \\text{ cm}, 50 \\text{ kg}", "40 \\text{ cm}", "40", "60", "40, 50", "40 \\text{ cm}, 60 \\text{ m}"]),
    ("4 \\text{ apples and } 5 \\text{ pears}", ["4 \\text{ apples and } 5 \\text{ pears}"],
     ["4 \\text{ apples and } 6 \\text{ pears}", "4", "5", "5 \\text{ apples and } 4 \\text{ pears}",
      "4 \\text{ apples}"]),
)  # fmt: skip
def test_variables_are_no_units_and_every_item_counts(truth, answer, same):
    assert equivalent(answer, truth) is same


@table(
    ("4210_{7}", ["4210_{7}", "4210_7", "4210_{\\text{seven}}", "4210", "4{,}210_7", "\\textbf{4210}_7"],
     ["4210_{9}", "4210_8", "4210_{\\text{nine}}", "4211_7", "4211", "421_7", "4210_{10}", "1470", "-4210_7"]),
    ("1101_2", ["1101_2", "1101_{2}", "1101_{\\text{two}}", "1101"],
     ["1101_3", "1101_{10}", "1011_2", "1100_2", "1011", "110_2", "2"]),
    ("13", ["1101_2", "13_{10}", "15_8", "13"], ["1101_3", "13_8", "13_4", "1100_2", "1101", "13_{16}"]),
    ("AB1_{12}", ["AB1_{12}"], ["AB1_{13}", "AB2_{12}", "BA1_{12}", "AB_{12}"]),
    ("2A_{16}", ["2A_{16}"], ["2A_{15}", "2B_{16}", "2A_{11}"]),
    ("x_1", ["x_1", "x_{1}"], ["x_2", "x", "1", "y_1"]),
    ("a_{10}", ["a_{10}"], ["a_{11}", "a_1", "10"]),
)  # fmt: skip
def test_the_base_of_a_number_counts(truth, answer, same):
    assert equivalent(answer, truth) is same


@table(
    ("0", ["0", "0.0", "x=0", "\\frac{0}{5}", "-0"], ["x^2-12=0", "2x+1=0", "x+y=0", "x-y=0", "\\sin x = 0", "f(x)+1=0",
                                                       "x>0", "0=1", "1"]),
    ("8", ["8=x", "x=8"], ["8=2x", "8=x+y", "9=x", "8=x=9"]),
    ("5", ["x=5", "n = 5", "x = 5.", "a_3=5", "f(2)=5", "5=5", "2+3=5", "x_{\\max}=5", "\\angle A = 5",
           "\\text{Area} = 5", "\\boxed{5}", "x=y=5", "AB=5", "x \\approx 5", "P(A)=5"],
     ["2x=5", "x^2=5", "x+1=5", "x-5=0", "x=50", "x=-5", "5=x+1", "x \\ne 5", "x<5", "x=5y", "x=5, y=6", "x=4=5",
      "3=5", "2+2=5", "x=\\frac{1}{5}", "y=5x", "x=y", "5x"]),
    ("x=5", ["5", "x=5", "x = 5.0", "x=\\frac{10}{2}", "x=2+3"], ["y=5", "x=6", "6", "x=-5", "2x=5", "x^2=5", "x",
     "x>5"]),
    ("x^2+y^2=1", ["x^2+y^2=1", "y^2+x^2=1", "x^2=1-y^2", "1-x^2-y^2=0", "1=x^2+y^2", "2x^2+2y^2=2"],
     ["x^2+y^2=2", "x^2-y^2=1", "1", "x^2+y^2", "x^2+y^2=-1", "x+y=1", "x^2+z^2=1", "x^2+y^2<1", "2x^2+2y^2=1"]),
    ("x^2-12=0", ["x^2-12=0", "x^2=12", "12-x^2=0"], ["0", "x^2-13=0", "x^2+12=0", "12", "y^2=12", "x^2-12=1"]),
    ("y=2x+1", ["2x+1", "y=2x+1", "y=1+2x", "y-2x=1"], ["y=2x", "2x+2", "y=2x-1", "y", "1", "z=2x+1", "y=2t+1"]),
    ("f(x)=x^2", ["x^2", "f(x)=x^2", "f(x) = x \\cdot x"], ["g(x)=x^2", "f(x)=x^3", "x^3", "f(x)=2x", "f(x)=y^2", "x"]),
    ("m_{\\max}=5", ["5", "m_{\\max}=5", "m_{\\max} = 5.0"], ["6", "m_{\\min}=5", "m_{\\max}=6", "m_{\\max}"]),
    ("I_{\\max}=\\frac{q_0}{\\sqrt{2LC}}", ["\\frac{q_0}{\\sqrt{2LC}}", "I_{\\max}=\\frac{q_0}{\\sqrt{2CL}}",
                                            "\\frac{q_0}{\\sqrt{2}\\sqrt{L C}}"],
     ["\\frac{q_0}{\\sqrt{LC}}", "\\frac{q_1}{\\sqrt{2LC}}", "\\frac{q_0}{2\\sqrt{LC}}", "I_{\\max}", "q_0"]),
    ("\\frac{dx}{dt} = kx - a", ["\\frac{dx}{dt}=kx-a", "\\frac{dx}{dt}=-a+kx"],
     ["\\frac{dx}{dt}=kx+a", "\\frac{dx}{dt}=kx", "\\frac{dy}{dt}=kx-a"]),
)  # fmt: skip
def test_an_equation_is_its_right_side_only_where_it_names_a_value(truth, answer, same):
    assert equivalent(answer, truth) is same


@table(
    ("Yes", ["yes", "YES", "yes.", "\\text{yes}"], ["no", "y", "yet"]),
    ("no", ["No", "No."], ["yes", "n", "on", "\\text{not}"]),
    ("odd", ["Odd", "\\text{Odd}"], ["even", "o", "add"]),
    ("red", ["Red"], ["R", "rod"]),
    ("ab", ["ba"], ["AB", "Ab", "a"]),
    ("ABC", ["ABC"], ["abc", "Abc", "AB"]),
    ("\\text{There are 3 apples left}", ["\\text{There are 3 apples left}", "\\text{there are 3 apples left.}"],
     ["3", "4", "\\text{There are 4 apples left}", "\\text{There are 3 pears left}", "apples"]),
    ("every prime greater than 3", ["every prime greater than 3", "Every prime greater than 3."],
     ["3", "\\text{every prime greater than 5}", "prime", "5", "every prime less than 3"]),
    ("all n divisible by 4", ["all n divisible by 4"], ["4", "all n divisible by 8", "n=4"]),
    ("\\text{Evelyn}", ["\\text{Evelyn}", "Evelyn", "\\textbf{Evelyn}", "\\mathrm{evelyn}", "\\text{Evelyn.}"],
     ["\\text{Eve}", "\\text{Carla}", "E", "\\text{Evelyn and Carla}", "e"]),
    ("\\text{(C)}", ["C", "(C)", "\\textbf{(C)}"], ["(B)", "B", "\\text{(CC)}", "c^2"]),
    ("B", ["B. 5 J", "\\text{B. }5\\text{ J}", "\\text{B: } 5", "B) 3 C", "B. 5 A"],
     ["A. 5 B", "B, C", "B. C", "A. 1, B. 2", "A B", "B or A", "A. 2 and B. 3"]),
    ("\\text{yes}", ["yes", "Yes", "\\text{Yes.}", "\\mathrm{yes}"], ["no", "\\text{not yes}", "y", "yes or no"]),
    ("\\text{east}", ["\\text{east}", "East"], ["\\text{west}", "\\text{northeast}", "east west"]),
    ("(-\\infty, 0) \\text{ and increasing}", ["(-\\infty, 0) \\text{ and increasing}"],
     ["(-\\infty, 0)", "(-\\infty, 0) \\text{ and decreasing}", "(-\\infty,1) \\text{ and increasing}", "0"]),
)  # fmt: skip
def test_a_truth_in_words_is_compared_as_words(truth, answer, same):
    assert equivalent(answer, truth) is same


@table(
    ("1/2004!", ["1/2004!", "\\frac{1}{2004!}", "\\frac{1}{2004 !}", "\\frac{2004}{2004 \\cdot 2004!}"],
     ["1/2006!", "1/2005!", "0", "\\frac{2}{2004!}", "-\\frac{1}{2004!}", "2004!", "\\frac{1}{2004}"]),
    ("2^{-99}", ["2^{-99}", "\\frac{1}{2^{99}}", "4^{-49.5}", "0.5^{99}"], ["2^{-98}", "2^{-100}", "0", "2^{99}",
     "-2^{-99}"]),
    ("2^{2024}", ["2^{2024}", "4^{1012}", "2\\cdot 2^{2023}"], ["2^{2025}", "2^{2024}+1", "2^{2024}-1", "2^{1012}"]),
    ("10^{100}", ["10^{100}", "100^{50}"], ["10^{101}", "10^{99}", "10^{100}+1", "\\infty"]),
    ("100!", ["100!", "100\\cdot 99!"], ["101!", "99!", "100!+1", "100!!", "100"]),
    ("6000 !", ["6000!", "6000 !", "{6000}!"], ["6001!", "6000", "60000!", "6000!!"]),
    ("(10^{6})!", ["(10^6)!", "(10^{6})!", "(10^6) !"], ["10^6", "(10^7)!", "(10^{5})!", "10^{6}!"]),
    ("10^{-30}", ["10^{-30}", "1 \\times 10^{-30}", "\\frac{1}{10^{30}}"], ["10^{-31}", "0", "2\\times 10^{-30}",
     "10^{30}"]),
    ("\\frac{1}{30000}", ["\\frac{1}{30000}", "0.0000333333333"], ["0.000033", "0", "0.00003", "0.000034",
     "0.0000333334"]),
    ("3^{1000}-1", ["3^{1000}-1", "-1+3^{1000}"], ["3^{1000}", "3^{1000}+1", "3^{1000}-2"]),
    ("\\sqrt{10^{40}+1}", ["\\sqrt{10^{40}+1}", "\\sqrt{1+10^{40}}"], ["10^{20}", "\\sqrt{10^{40}+2}"]),
    ("6.02 \\times 10^{23}", ["6.02 \\times 10^{23}", "6.02e23", "6.02\\cdot 10^{23}", "602 \\times 10^{21}"],
     ["6.02 \\times 10^{22}", "6.03 \\times 10^{23}", "6.02", "10^{23}", "6.02 \\times 10^{-23}"]),
)  # fmt: skip
def test_huge_and_tiny_values_are_told_apart(truth, answer, same):
    assert outcome(answer, truth) == ("correct" if same else "wrong") or (
        not same and outcome(answer, truth) == "error"
    )


@table(
    ("(3,4]", ["(3,4]", "\\left(3,4\\right]", "x \\in (3,4]", "]3,4]", "(3, 4.0]", "\\left( 3, \\frac{8}{2} \\right]"],
     ["(3,4)", "[3,4]", "[3,4)", "(4,3]", "(3,5]", "3,4", "\\{3,4\\}", "(2,4]", "(3,4", "3", "(3,4]\\cup\\{5\\}"]),
    ("[0,1]", ["[0,1]", "[0, 1]", "\\lbrack 0,1\\rbrack"], ["(0,1)", "[0,1)", "(0,1]", "[1,0]", "[0,1]\\cup[2,3]",
     "0,1"]),
    ("(1,2)", ["(1,2)", "\\left(1,2\\right)", "(1, 2)", "(x,y)=(1,2)", "\\langle 1,2\\rangle", "x=1, y=2", "1,2"],
     ["(2,1)", "[1,2]", "[1,2)", "(1,2]", "\\{1,2\\}", "(1,2,3)", "(1,3)", "(-1,2)", "x=2, y=1", "2,1"]),
    ("1,2,3,\\dots,10", ["1,2,3,\\dots,10", "1, 2, 3, \\ldots, 10", "1,2,3,...,10"],
     ["1,2,3,\\dots,11", "1,2,3,\\dots", "1,2,3,10", "1,2,4,\\dots,10", "1,2,\\dots,10,3", "\\dots"]),
    ("2,4,6,\\dots", ["2,4,6,\\dots", "2,4,6,\\ldots"], ["2,4,8,\\dots", "2,4,6", "4,2,6,\\dots", "2,4,6,\\dots,8"]),
    ("(-\\infty,1]\\cup[10,\\infty)", ["(-\\infty,1]\\cup[10,\\infty)", "(-\\infty,1]\\cup[10,+\\infty)",
                                        "[10,\\infty)\\cup(-\\infty,1]", "c \\in (-\\infty, 1] \\cup [10, \\infty)",
                                        "x \\le 1 \\text{ or } x \\ge 10"],
     ["(-\\infty,1)\\cup[10,\\infty)", "(-\\infty,1]\\cup(10,\\infty)", "(-\\infty,1]", "[1,10]", "(-\\infty,\\infty)",
      "(-\\infty,1]\\cap[10,\\infty)", "(-\\infty,1]\\cup[11,\\infty)", "x\\le 1", "x<1 \\text{ or } x \\ge 10"]),
    ("\\{1,2,3\\}", ["\\{1,2,3\\}", "\\{3,2,1\\}", "1,2,3", "\\left\\{1,2,3\\right\\}", "3, 1, 2", "\\{1,2,3,3\\}"],
     ["\\{1,2\\}", "\\{1,2,3,4\\}", "(1,2,3)", "[1,3]", "\\{1,2,4\\}", "1,2", "123", "\\{-1,2,3\\}", "\\{\\}"]),
    ("1,2", ["1,2", "2,1", "1, 2", "1 \\text{ and } 2", "1 \\text{ or } 2", "x=1, x=2", "x=1,2", "x_1=1, x_2=2",
             "\\{1,2\\}", "1;2"],
     ["1", "2", "1,2,3", "1,3", "12", "1.2", "(2,1)", "[1,2]", "x=1, y=3", "1,1", "-1,2"]),
    ("(1,2),(3,4)", ["(1,2),(3,4)", "(3,4),(1,2)", "\\{(1,2),(3,4)\\}"],
     ["(1,2)", "(2,1),(3,4)", "(1,2),(4,3)", "(1,2,3,4)", "(1,2),(3,4),(5,6)", "1,2,3,4", "(1,4),(3,2)"]),
    ("\\emptyset", ["\\emptyset", "\\varnothing", "∅"], ["0", "\\{0\\}", "1", "\\{\\emptyset, 1\\}"]),
    ("-2,1", ["-2,1", "1,-2"], ["1", "-2", "2,-1", "2,1"]),
    ("2 \\pm \\sqrt{3}", ["2 \\pm \\sqrt{3}", "2+\\sqrt{3}, 2-\\sqrt{3}", "2 \\mp \\sqrt 3", "x=2\\pm\\sqrt{3}"],
     ["2+\\sqrt{3}", "2-\\sqrt{3}", "2 \\pm \\sqrt{2}", "\\pm\\sqrt{3}", "-2 \\pm \\sqrt{3}", "2"]),
    ("\\pm 3", ["\\pm 3", "3,-3", "-3, 3", "x=\\pm 3"], ["3", "-3", "\\pm 2", "0", "3,-2"]),
)  # fmt: skip
def test_lists_sets_intervals_and_tuples_keep_their_brackets_order_and_length(truth, answer, same):
    assert equivalent(answer, truth) is same


@table(
    ("33\\%", ["33", "33\\%", "33%", "33 \\text{ percent}", "33\\text{ percent}", "33\\ \\%", "\\text{33%}",
     "33 percent", "33.0\\%", "0.33", "\\frac{33}{100}", "33\\text{\\%}"],
     ["34\\%", "3300", "3.3", "33.5\\%", "0.33\\%", "-33\\%", "34", "0.34", "33^\\circ", "33x"]),
    ("8", ["8\\%", "8", "8 \\text{ percent}"], ["0.08", "800", "9\\%", "0.8\\%", "800\\%\\cdot 2", "8\\%x", "18\\%"]),
    ("3/8", ["37.5\\%", "0.375", "\\frac{3}{8}", "37.5 \\text{ percent}"], ["37.5", "0.375\\%", "37\\%", "3.75\\%",
     "38\\%"]),
    ("0.5", ["50\\%", "0.5", "1/2"], ["0.5\\%", "50", "5\\%", "0.05", "\\frac{1}{2}\\%"]),
    ("\\frac{1}{4}", ["25\\%", "0.25"], ["25", "\\frac14\\%", "0.25\\%", "2.5\\%"]),
    ("37.5\\%", ["37.5", "3/8", "37.5\\%", "\\frac{75}{2}\\%", "0.375"], ["37", "3.75", "38\\%", "37.6\\%"]),
    ("0.5\\%", ["0.5\\%", "0.5", "0.005", "\\frac{1}{2}\\%", "\\frac{1}{200}"], ["50\\%", "5\\%", "50", "0.05"]),
    ("100", ["100\\%", "100"], ["1", "10000\\%\\cdot 2", "10\\%"]),
    ("1", ["1", "100\\%", "1\\%"], ["0.01", "100", "10\\%"]),
    ("20\\%, 30\\%", ["20\\%, 30\\%", "20, 30", "30\\%, 20\\%"], ["20\\%", "20\\%, 40\\%", "30", "2000, 3000"]),
)  # fmt: skip
def test_percent(truth, answer, same):
    assert equivalent(answer, truth) is same


@table(
    ("10", ["10^\\circ", "10^{\\circ}", "10°", "10 \\text{ degrees}", "10\\degree", "10"],
     ["11^\\circ", "100^\\circ", "1^\\circ", "\\frac{\\pi}{18}", "10\\pi", "10^0", "10^{o1}"]),
    ("10^\\circ", ["10", "10°", "10^{\\circ}", "10 degrees", "\\frac{\\pi}{18}", "10^\\circ.", "10\\degree",
                   "10 ^ {\\circ}", "10{}^\\circ", "10 \\text{ degrees}"],
     ["11", "\\pi/10", "100^\\circ", "10\\%", "10\\pi", "-10^\\circ", "\\frac{\\pi}{9}"]),
    ("180^\\circ", ["\\pi", "180", "180°", "\\pi \\text{ radians}", "180.0^\\circ"], ["2\\pi", "\\pi/2", "-\\pi",
     "360^\\circ", "18"]),
    ("\\pi", ["\\pi", "180^\\circ", "π", "\\pi \\text{ rad}"], ["180", "3.14", "360^\\circ", "2\\pi", "p"]),
    ("\\frac{\\pi}{6}", ["30^\\circ", "\\pi/6"], ["30", "\\frac{\\pi}{3}", "60^\\circ", "\\frac{1}{6}"]),
    ("90^\\circ - \\alpha", ["90^\\circ - \\alpha", "90^\\circ-\\alpha", "-\\alpha+90^\\circ"],
     ["90^\\circ", "90^\\circ+\\alpha", "90^\\circ-\\beta", "180^\\circ-\\alpha", "\\alpha"]),
    ("90^\\circ,60^\\circ", ["90^\\circ,60^\\circ", "60,90", "60^\\circ, 90^\\circ"], ["90^\\circ",
     "90^\\circ,61^\\circ", "60"]),
    ("\\sin 30^\\circ", ["\\frac{1}{2}", "0.5", "\\sin 30^\\circ", "\\cos 60^\\circ"], ["\\sin 30", "\\sin 31^\\circ",
     "30"]),
    ("20^\\circ \\text{C}", ["20", "20^\\circ \\text{C}", "20^\\circ"], ["20^\\circ \\text{F}", "21^\\circ\\text{C}"]),
)  # fmt: skip
def test_degrees(truth, answer, same):
    assert equivalent(answer, truth) is same


@table(
    ("5", ["5.", "5,", "5\\ ", "5\\,", "5;", "$5$", "5\\\\", " 5 ", "5 \\quad", "\\, 5", "\\text{5}", "\\mathbf{5}",
     "{5}", "+5", "\\(5\\)", "5\\!", "\\displaystyle 5", "\\color{red}5", "\\color{red}{5}",
     "\\textcolor{blue}{5}",
           "\\underline{5}", "\\bm{5}", "\\boldsymbol{5}", "\\mathrm{5}", "\\textit{5}", "\\underline{\\textbf{5}}",
           "05", "5.00", "\\boxed{5}", "\\left(5\\right)", "=5", "\\mathsf{5}"],
     ["5.5", "5,6", "15", "\\overline{5}", "\\sqrt{5}", "5!", "5'", "\\color{5}6", "\\textcolor{5}{6}", "5.1", "-5",
      "|5|x", "\\underline{55}", "5\\bm{x}", "50", "5^2"]),
    ("27", ["\\textbf{(C)}\\ 27", "\\textbf{(C) }27", "\\text{(C)}\\ 27", "(C) 27", "\\mathrm{(C)}\\ 27", "C. 27",
     "027", "\\textbf{027}"],
     ["\\textbf{(C)}\\ 28", "\\textbf{(C)}", "(C)", "C", "\\textbf{(27)}\\ 28", "270", "(2) 7"]),
    ("-5", ["\\textbf{(C)}\\ -5", "(C)~-5", "C. -5", "C) -5"], ["(C)-5", "C-5", "(C) - 5", "(C) 5"]),
    ("2.5", ["2\\frac12", "2 \\frac{1}{2}"], ["2\\{\\frac12\\}", "2\\left\\{\\frac12\\right\\}",
     "2[\\frac12]", "2(\\frac12)", "(2)\\frac12", "(2)(\\frac12)", "\\{2\\}\\frac12"]),
    ("6", ["(2)(3)", "2(3)", "2\\cdot 2(\\frac32)"], ["2\\{3\\}", "23", "(2)(4)"]),
    ("5", ["(5)"], ["(2)(3)", "2\\cdot 2(\\frac12)"]), ("2x", ["2(x)"], ["2\\{x\\}"]),
    ("0.003", ["0.003", "0.003\\,"], ["0.003''", "0.003'"]),
    ("33", ["\\textbf{033}", "033", "33.", "\\text{033}"], ["\\textbf{330}", "3", "0.33", "303", "\\textbf{33}4"]),
    ("\\textbf{(C)}\\ 27", ["27", "C", "(C)", "\\textbf{(C)}", "\\textbf{(C)}\\ 27", "\\text{(C) } 27"],
     ["28", "B", "(D)", "\\textbf{(B)}\\ 28", "2", "7", "\\textbf{(B)}\\ 27"]),
    ("1000", ["1000", "1,000", "1{,}000", "1\\,000", "1\\ 000", "1 000", "1,\\!000", "1{,}000.0", "1\\;000", "10^3",
              "\\$1,000", "1~000"],
     ["1,00", "1.000", "1,0", "100", "10000", "1,001", "1, 000", "1;000", "10\\,000", "1,0000"]),
    ("1234567", ["1,234,567", "1\\,234\\,567", "1 234 567", "1{,}234{,}567"], ["1,234,56", "1,234", "1,234,568",
     "123456"]),
    ("\\$12.50", ["12.50", "12.5", "\\$12.50", "\\text{\\$}12.50", "$12.50", "12.50 \\text{ dollars}", "\\frac{25}{2}"],
     ["12.05", "1250", "12", "12.50x", "125"]),
    ("12", ["12 \\text{ cm}", "12 cm", "12\\mathrm{~cm}", "12 \\text{ square meters}", "12\\text{ cm}^2",
     "12 \\text{ eggs}",
            "12 dollars", "\\text{\\$}12", "12 \\text{ m/s}", "12\\;\\mathrm{kg}", "\\$12", "12 \\text{ units}"],
     ["12c", "12x", "12^2", "12 \\text{ or } 13", "12 \\text{ to } 15", "12 \\text{ thousand}", "12m",
      "12\\text{ million}", "12 \\text{ cm}+1", "\\text{cm}", "12 \\text{ not}"]),
    ("5 \\text{ cm}", ["5", "5 \\text{ cm}", "5 cm", "5\\,\\mathrm{cm}", "5 \\text{ centimeters}"],
     ["5 \\text{ m}", "5 \\text{ kg}", "6 \\text{ cm}", "6", "50 \\text{ mm}\\cdot 2", "5 \\text{ cm}^2", "5x"]),
    ("30 \\text{ m}^2", ["30", "30 \\text{ m}^2", "30 \\text{ square meters}", "30 m^2", "30\\text{ sq m}"],
     ["30 \\text{ m}^3", "900", "30 \\text{ cm}^2", "30m", "31"]),
    ("12^{\\text{th}}", ["12", "12^{\\mathrm{th}}", "12th", "12^\\text{th}", "12\\text{th}"], ["13^{\\text{th}}",
     "12t", "12h", "2"]),
    ("12", ["12^{\\mathrm{th}}", "12th"], ["12^{t}", "12^{h}", "11th", "12^{10}"]),
    ("e", ["e", "\\mathrm{e}", "\\text{e}", "e^1"], ["2.718", "E", "f", "1", "e^2"]),
    ("e^2", ["\\mathrm{e}^2", "e^{2}", "e \\cdot e"], ["e^3", "2e", "e", "\\mathrm{e}", "x^2"]),
    ("2\\pi", ["2\\pi", "2π", "2 \\cdot \\pi", "\\pi\\cdot 2", "\\bm{2\\pi}", "2\\,\\pi"], ["2", "\\pi", "6.28",
     "2\\pi r", "3\\pi"]),
    ("\\frac{1}{2}", ["\\dfrac{1}{2}", "\\tfrac12", "\\nicefrac{1}{2}", "\\sfrac{1}{2}", "\\frac12", "1/2", ".5",
     "\\cfrac{1}{2}", "½", "{1}/{2}", "\\frac 1 2", "\\frac{1}2", "\\frac1{2}", "\\nicefrac12",
                      "\\displaystyle\\frac{1}{2}"],
     ["\\nicefrac{2}{1}", "\\frac{1}{3}", "\\frac21", "-\\frac12", "\\frac{1}{22}", "\\sfrac{1}{3}", "1/20", "12"]),
    ("(1,2)", ["\\big(1,2\\big)", "\\Big(1, 2\\Big)", "\\bigl(1,2\\bigr)", "\\left(1,2\\right)", "(1,\\,2)",
     "( 1 , 2 )",
               "\\bigg( 1,2 \\bigg)"], ["\\big[1,2\\big]", "\\big(2,1\\big)", "\\left[1,2\\right)", "\\big(1,2\\big]"]),
    ("1\\frac{1}{2}", ["1\\frac{1}{2}", "1.5", "\\frac{3}{2}", "1 1/2", "1 \\frac12", "3/2"],
     ["\\frac{1}{2}", "1/2", "11/2", "1\\cdot\\frac12", "-1\\frac{1}{2}", "1\\frac{1}{3}"]),
    ("-3", ["-3", "- 3", "−3", "–3", "-3.0", "-\\frac{6}{2}"], ["3", "+3", "|-3|", "--3", "-30", "(-3)^2"]),
    ("8:30 \\text{ a.m.}", ["8:30 \\text{ a.m.}"], ["8:31 \\text{ a.m.}", "8", "30", "8:30 \\text{ p.m.}", "9:30"]),
    ("3:5", ["3:5", "3 : 5", "3\\colon 5"], ["5:3", "3:4", "3", "5", "35", "8"]),
    ("70", ["70.0", "70", "70."], ["7.0", "700", "70.1", "70,0", "0.70"]),
    ("70.0", ["70", "70.0"], ["71", "7", "700"]),
)  # fmt: skip
def test_dress_says_nothing_and_everything_else_does(truth, answer, same):
    assert equivalent(answer, truth) is same


@table(
    ("(3,4]", ["3 < \\lambda \\leq 4", "3<x\\le 4", "4 \\ge x > 3", "3 \\lt x \\leqslant 4", "3 < x ≤ 4"],
     ["3 \\le x \\le 4", "3<x<4", "3<x\\le 5", "x \\le 4", "3 < x", "4<x\\le 3", "3 < 4", "3 > x \\ge 4",
      "3<x, y\\le 4"]),
    ("(-\\infty,2)", ["x<2", "2>x", "x \\lt 2"], ["x\\le 2", "x>2", "x<3", "x<-2", "2<x", "2"]),
    ("[5,\\infty)", ["x \\ge 5", "x\\geq 5", "5 \\le x", "a \\geqslant 5"], ["x>5", "x\\le 5", "x \\ge 6", "x=5", "5"]),
    ("3 < x \\le 4", ["(3,4]", "3<x\\leq 4", "x\\in(3,4]", "4\\ge x>3"], ["[3,4]", "(3,4)", "3<y\\le 4", "4", "3",
     "x"]),
    ("x>5", ["x>5", "5<x", "(5,\\infty)"], ["x<5", "x\\ge 5", "5", "x", "x=5", "x>6", "y>5"]),
    ("x \\ne 2", ["x\\neq 2", "(-\\infty,2)\\cup(2,\\infty)"], ["x=2", "2", "x>2", "x \\ne 3", "\\mathbb{R}"]),
    ("5", ["5"], ["x<5", "x>5", "x \\le 5", "x \\ge 5", "4<x<6", "x \\ne 5", "x\\le 5 \\text{ and } x \\ge 5", "0<5"]),
    ("\\{1,2\\}", ["\\{1,2\\}"], ["1<x<2", "1 \\le x \\le 2", "x<2", "1<2"]),
    ("(1,2,3)", ["\\begin{pmatrix}1\\\\2\\\\3\\end{pmatrix}", "\\begin{pmatrix} 1 & 2 & 3 \\end{pmatrix}", "(1,2,3)",
                 "\\langle 1,2,3\\rangle"],
     ["\\begin{pmatrix}1\\\\3\\\\2\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\{1,2,3\\}", "(1,3,2)",
      "\\begin{pmatrix}1\\\\2\\\\-3\\end{pmatrix}", "[1,2,3)"]),
    ("\\begin{pmatrix} -7 \\\\ 16 \\\\ 5 \\end{pmatrix}",
     ["(-7,16,5)", "\\begin{bmatrix}-7\\\\16\\\\5\\end{bmatrix}", "\\begin{pmatrix}-7\\\\16\\\\5\\end{pmatrix}",
      "\\left(\\begin{array}{c}-7\\\\16\\\\5\\end{array}\\right)"],
     ["(7,16,5)", "(-7,5,16)", "(-7,16)", "\\begin{pmatrix}-7\\\\16\\\\6\\end{pmatrix}", "-7"]),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", ["\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}",
                                                   "\\begin{pmatrix} 1 & 2 \\\\ 3 & \\frac{8}{2} \\end{pmatrix}",
                                                   "\\begin{pmatrix}1&2\\\\3&4\\\\\\end{pmatrix}"],
     ["\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}", "(1,2,3,4)", "\\begin{pmatrix}1&2\\\\3&5\\end{pmatrix}",
      "\\begin{pmatrix}1\\\\2\\\\3\\\\4\\end{pmatrix}", "\\begin{pmatrix}1&2&3&4\\end{pmatrix}", "-2",
      "\\begin{pmatrix}1&2\\end{pmatrix}"]),
    ("\\cos 20^\\circ", ["\\sin 70^\\circ", "\\cos 20^\\circ", "\\cos(20^\\circ)", "-\\cos 160^\\circ"],
     ["\\sin 20^\\circ", "\\cos 70^\\circ", "\\cos 21^\\circ", "\\sin 71^\\circ", "-\\sin 70^\\circ"]),
    ("\\tan x", ["\\frac{\\sin x}{\\cos x}", "\\cot(\\frac{\\pi}{2}-x)", "\\tan(x)"], ["\\cot x", "\\tan 2x",
     "\\sin x", "\\tan y", "x"]),
    ("\\sin^2 x", ["1-\\cos^2 x", "(\\sin x)^2"], ["\\cos^2 x", "\\sin x^2", "\\sin 2x", "1+\\cos^2 x"]),
    ("\\frac{1}{\\sqrt{n}}", ["\\sqrt{\\frac{1}{n}}", "\\sqrt{1/n}", "n^{-1/2}", "\\frac{\\sqrt{n}}{n}"],
     ["\\sqrt{n}", "\\frac{1}{n}", "\\frac{1}{\\sqrt{m}}", "-\\frac{1}{\\sqrt{n}}", "\\sqrt{\\frac{2}{n}}",
      "\\frac{1}{n^2}"]),
    ("\\frac{\\sqrt{3}}{3}", ["\\frac{1}{\\sqrt{3}}", "3^{-1/2}", "\\sqrt{\\frac13}", "\\frac{\\sqrt3}3"],
     ["\\sqrt{3}", "\\frac{1}{3}", "\\frac{3}{\\sqrt{3}}", "0.577", "\\frac{\\sqrt{2}}{3}"]),
    ("(x+1)^2", ["x^2+2x+1", "(1+x)^2", "(x+1)(x+1)"], ["x^2+1", "x^2+2x", "(x-1)^2", "(y+1)^2", "x^2+2x+2",
     "(x+1)^3"]),
    ("|x|", ["|x|", "\\sqrt{x^2}", "\\lvert x\\rvert", "|-x|"], ["x", "-x", "|y|", "x^2", "|x|+1"]),
    ("\\log_2 8", ["3", "\\log_2 8", "\\log_{2}(8)"], ["2", "\\log_3 8", "\\log_2 9", "8"]),
    ("\\ln 2", ["\\ln 2", "\\ln(2)", "\\frac{1}{2}\\ln 4"], ["\\log_2 2", "\\log_{10} 2", "\\ln 3", "2", "0.693"]),
    ("\\binom{10}{3}", ["120", "\\binom{10}{7}", "\\dbinom{10}{3}"], ["\\binom{10}{4}", "\\binom{3}{10}", "30",
     "1000"]),
    ("1+2i", ["1+2i", "2i+1", "1+2\\cdot i"], ["1-2i", "2+i", "1+2j", "3", "1+2x", "-1+2i", "1+2I"]),
    ("B", ["B", "(B)", "B. 12 eV", "(B) 12 eV", "\\text{B}", "B.", "\\textbf{B}", "B: 12", "\\textbf{(B)}\\ 12"],
     ["C", "A. 12 eV", "(C) 12", "AB", "12 \\text{ eV}", "C. B", "\\text{not B}", "B and C"]),
    ("x^2+1", ["x^2+1", "1+x^2"], ["x^2-1", "y^2+1", "x+1", "x^{2+1}", "x^3+1", "2x+1", "X^2+1"]),
    ("\\frac{a M^{1/3}}{G M^{2/3}+b}", ["\\frac{a M^{1/3}}{b+G M^{2/3}}"], ["\\frac{a M^{1/3}}{G M^{2/3}-b}",
     "\\frac{a M}{G M+b}"]),
    ("2^{n}-1", ["2^n-1", "-1+2^n"], ["2^{n-1}", "2^n", "2n-1", "2^{n}+1", "2^m-1", "n^2-1"]),
    ("n!", ["n!", "n\\cdot(n-1)!"], ["n", "(n+1)!", "m!", "n!!", "(n!)!"]),
    ("\\mathbb{R}", ["(-\\infty,\\infty)", "\\mathbb{R}", "x\\in\\mathbb{R}", "ℝ"], ["\\mathbb{Z}", "[0,\\infty)",
     "\\mathbb{N}", "R^2"]),
)  # fmt: skip
def test_forms_of_one_value(truth, answer, same):
    assert equivalent(answer, truth) is same


@pytest.mark.parametrize(
    "truth", ["5", "x=5", "\\frac{1}{2}", "(1,2)", "\\{1,2\\}", "1,2", "3 \\text{ cm}", "B", "x^2+1"]
)
@pytest.mark.parametrize(
    "hack",
    ["x", "x=x", "0=0", "x \\in \\mathbb{R}", "-\\infty < x < \\infty", "x \\ge -\\infty", "1=1", "\\text{true}",
     "\\top",
     "x<1 \\text{ or } x \\ge 1", "A, B, C, D", "\\dots", "\\{x\\}", "\\infty", "0,1,2,3,4,5", "\\text{the answer}",
     "?",
     "\\text{}", "\\frac{0}{0}", "\\frac{1}{0}", "\\text{nan}", "\\{\\}", "()", "\\text{unit}", "\\%", "^\\circ", "=",
     ","],
)  # fmt: skip
def test_an_answer_that_fits_everything_is_wrong(truth, hack):
    assert outcome(hack, truth) != "correct"


@pytest.mark.parametrize(
    ("answer", "truth", "keys", "same"),
    [
        ("3.14", "3.1", {"tolerance": 0.05}, True),
        ("3.2", "3.1", {"tolerance": 0.05}, False),
        ("3.15", "3.1", {"tolerance": 0.05}, True),
        ("-3.1", "3.1", {"tolerance": 0.05}, False),
        ("\\pi", "3.14", {"tolerance": 0.01}, True),
        ("\\pi", "3.1", {"tolerance": 0.01}, False),
        ("3.14x", "3.1", {"tolerance": 0.05}, False),
        ("3.14, 2", "3.1, 2", {"tolerance": 0.05}, True),
        ("3.14, 3", "3.1, 2", {"tolerance": 0.05}, False),
        ("2, 3.14", "3.1, 2", {"tolerance": (0.05, 0.001)}, True),
        ("2.01, 3.1", "3.1, 2", {"tolerance": (0.05, 0.001)}, False),
        ("7", "5", {"alternatives": ("6", "7")}, True),
        ("8", "5", {"alternatives": ("6", "7")}, False),
        ("4.001", "5", {"alternatives": ("4",), "tolerance": 0.01}, True),
        ("12 \\text{ eV}", "B", {"options": ("10 eV", "12 eV")}, True),
        ("10 \\text{ eV}", "B", {"options": ("10 eV", "12 eV")}, False),
        ("B", "12 eV", {"options": ("10 eV", "12 eV")}, True),
        ("A", "12 eV", {"options": ("10 eV", "12 eV")}, False),
        ("C", "12 eV", {"options": ("10 eV", "12 eV")}, False),
        ("b", "B", {"options": ("10 eV", "12 eV")}, True),
        ("0.5", "A", {"options": ("\\frac{1}{2}", "2")}, True),
        ("3", "A", {"options": ("3", "3.0")}, False),
        ("B", "A", {"options": ("B", "A")}, False),
    ],
)
def test_tolerance_alternatives_and_options(answer, truth, keys, same):
    assert (outcome(answer, truth, **keys) == "correct") is same


@pytest.mark.parametrize("answer", ["6000!", "6000 !", "{6000}!", "(6000)!"])
def test_what_is_textually_the_truth_is_correct_before_anything_is_computed(answer, monkeypatch):
    from mel_ray.rewards import judge

    def never(*_):
        raise AssertionError("nothing needs to be computed")

    monkeypatch.setattr(judge, "equivalent", never)
    if answer != "(6000)!":
        assert outcome(answer, "6000 !") == "correct"
    assert outcome("(10^6)!", "(10^{6})!") == "correct"


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("x^2+y", "x^2+z"),
        ("\\int_0^x \\sin(t^2) dt + a", "\\int_0^x \\sin(t^2) dt"),
        ("a^{b^c}", "a^{b^d}"),
        ("\\sin x", "3"),
    ],
)
def test_other_variables_are_wrong_without_a_simplifier(answer, truth, monkeypatch):
    import math_verify

    def never(*_, **__):
        raise AssertionError("Math-Verify need not be asked")

    monkeypatch.setattr(math_verify, "verify", never)
    assert equivalent(answer, truth) is False
